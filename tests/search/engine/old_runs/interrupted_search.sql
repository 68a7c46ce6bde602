PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO studies VALUES(1,'small on digits [65141b1f]');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO version_info VALUES(1,12,'5.0.0');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_directions VALUES(1,'MINIMIZE',1,0);
INSERT INTO study_directions VALUES(2,'MAXIMIZE',1,1);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_user_attributes VALUES(1,1,'ratio-search','{"schema": 1, "task": "65141b1f7d40f2aec643", "title": "small on digits"}');
INSERT INTO study_user_attributes VALUES(2,1,'fact:dense','{"flops": 607872, "params": 38586, "bytes": 154344, "search_accuracy": 0.1, "test_accuracy": 0.10306406685236769}');
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_system_attributes VALUES(1,1,'study:metric_names','["FLOPs", "accuracy"]');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO trials VALUES(1,0,1,'COMPLETE','2026-11-27 08:53:23.650286','2026-11-27 08:53:25.073734');
INSERT INTO trials VALUES(2,1,1,'COMPLETE','2026-11-27 08:53:25.244181','2026-11-27 08:53:25.282148');
INSERT INTO trials VALUES(3,2,1,'COMPLETE','2026-11-27 08:53:25.469842','2026-11-27 08:53:25.514649');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_user_attributes VALUES(1,1,'record','"{\"schema\":1,\"key\":\"162ff5309e18bc1c2b58\",\"candidate\":{\"method\":\"l1\",\"options\":{},\"allocation\":{\"conv1\":{\"ratio\":0.125},\"layer1.conv1\":{\"ratio\":0.1875},\"layer2.conv1\":{\"ratio\":0.1875},\"layer2.conv2\":{\"ratio\":0.1875},\"conv3\":{\"ratio\":0.140625}},\"recipe\":{\"epochs\":0.25,\"batch_size\":32,\"lr\":0.01,\"schedule\":\"cosine\",\"momentum\":0.9,\"weight_decay\":0.0005,\"label_smoothing\":0.0,\"distill_weight\":0.9,\"temperature\":4.0,\"recalibration_images\":2048},\"seed\":0,\"judge\":\"search\",\"images\":null,\"learned_target\":null,\"until\":null},\"outcome\":{\"status\":\"ok\",\"reason\":null,\"accuracy\":0.075,\"loss\":2.3940719604492187,\"drift\":0.005591806751224703,\"merit\":null,\"images\":40,\"flops\":425342,\"params\":26904,\"bytes\":107616,\"epochs\":0.25,\"seconds\":1.423448276000272,\"device\":\"cpu\",\"allocation\":null,\"notes\":{}},\"meta\":{\"strategy\":\"acra-uniform\",\"target\":\"0.7\",\"stage\":\"search\"},\"digest\":\"586a524e1e1c06ea\"}"');
INSERT INTO trial_user_attributes VALUES(2,2,'record','"{\"schema\":1,\"key\":\"2a57f754b995c64b3a4f\",\"candidate\":{\"method\":\"l1\",\"options\":{},\"allocation\":{\"conv1\":{\"ratio\":0.0625},\"layer1.conv1\":{\"ratio\":0.375},\"layer2.conv1\":{\"ratio\":0.21875},\"layer2.conv2\":{\"ratio\":0.03125},\"conv3\":{\"ratio\":0.015625}},\"recipe\":{\"epochs\":0.25,\"batch_size\":32,\"lr\":0.01,\"schedule\":\"cosine\",\"momentum\":0.9,\"weight_decay\":0.0005,\"label_smoothing\":0.0,\"distill_weight\":0.9,\"temperature\":4.0,\"recalibration_images\":2048},\"seed\":0,\"judge\":\"search\",\"images\":null,\"learned_target\":null,\"until\":null},\"outcome\":{\"status\":\"ok\",\"reason\":null,\"accuracy\":0.075,\"loss\":2.3454971313476562,\"drift\":0.006873898059374256,\"merit\":null,\"images\":40,\"flops\":425418,\"params\":32247,\"bytes\":128988,\"epochs\":0.25,\"seconds\":0.03796668599534314,\"device\":\"cpu\",\"allocation\":null,\"notes\":{}},\"meta\":{\"strategy\":\"random\",\"target\":\"0.7\",\"stage\":\"search\"},\"digest\":\"62d5576326181cd6\"}"');
INSERT INTO trial_user_attributes VALUES(3,3,'record','"{\"schema\":1,\"key\":\"4370821eecbed628634b\",\"candidate\":{\"method\":\"l1\",\"options\":{},\"allocation\":{\"conv1\":{\"ratio\":0.125},\"layer1.conv1\":{\"ratio\":0.125},\"layer2.conv1\":{\"ratio\":0.09375},\"layer2.conv2\":{\"ratio\":0.34375},\"conv3\":{\"ratio\":0.171875}},\"recipe\":{\"epochs\":0.25,\"batch_size\":32,\"lr\":0.01,\"schedule\":\"cosine\",\"momentum\":0.9,\"weight_decay\":0.0005,\"label_smoothing\":0.0,\"distill_weight\":0.9,\"temperature\":4.0,\"recalibration_images\":2048},\"seed\":0,\"judge\":\"search\",\"images\":null,\"learned_target\":null,\"until\":null},\"outcome\":{\"status\":\"ok\",\"reason\":null,\"accuracy\":0.15,\"loss\":2.359543800354004,\"drift\":0.00451501165819985,\"merit\":null,\"images\":40,\"flops\":425318,\"params\":23972,\"bytes\":95888,\"epochs\":0.25,\"seconds\":0.044807204001699574,\"device\":\"cpu\",\"allocation\":null,\"notes\":{}},\"meta\":{\"strategy\":\"random\",\"target\":\"0.7\",\"stage\":\"search\"},\"digest\":\"85238a4d33fb729a\"}"');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_values VALUES(1,1,0,425342.0,'FINITE');
INSERT INTO trial_values VALUES(2,1,1,0.074999999999999997224,'FINITE');
INSERT INTO trial_values VALUES(3,2,0,425418.0,'FINITE');
INSERT INTO trial_values VALUES(4,2,1,0.074999999999999997224,'FINITE');
INSERT INTO trial_values VALUES(5,3,0,425318.0,'FINITE');
INSERT INTO trial_values VALUES(6,3,1,0.14999999999999999444,'FINITE');
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version VALUES('v3.2.0.a');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
