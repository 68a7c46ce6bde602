PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO studies VALUES(1,'small on digits [65141b1f]');
INSERT INTO studies VALUES(2,'small on digits [65141b1f] / test');
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
INSERT INTO study_directions VALUES(3,'MINIMIZE',2,0);
INSERT INTO study_directions VALUES(4,'MAXIMIZE',2,1);
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
INSERT INTO study_user_attributes VALUES(3,1,'fact:row:daabb19d','{"method": "l1", "options": {}, "strategy": "acra-uniform", "target": "0.7", "target_flops": 425510, "target_limits": {}, "targets": ["0.7"], "final": "a23661d2a9516cc2f6c5", "searched": 1, "search_seconds": 2.4026846130000195, "constraints": [], "reason": null, "run": "compare"}');
INSERT INTO study_user_attributes VALUES(4,1,'fact:row:c587630a','{"method": "kse", "options": {}, "strategy": "acra-uniform", "target": "0.7", "target_flops": 425510, "target_limits": {}, "targets": ["0.7"], "final": "cab5ecaec0c2a9bc95ab", "searched": 1, "search_seconds": 0.13782513099431526, "constraints": [], "reason": null, "run": "compare"}');
INSERT INTO study_user_attributes VALUES(5,2,'ratio-search','{"schema": 1, "task": "65141b1f7d40f2aec643", "title": "small on digits"}');
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
INSERT INTO study_system_attributes VALUES(2,2,'study:metric_names','["FLOPs", "accuracy"]');
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
INSERT INTO trials VALUES(1,0,1,'COMPLETE','2026-11-27 08:53:36.235548','2026-11-27 08:53:38.638233');
INSERT INTO trials VALUES(2,1,1,'COMPLETE','2026-11-27 08:53:38.935783','2026-11-27 08:53:39.073608');
INSERT INTO trials VALUES(3,0,2,'COMPLETE','2026-11-27 08:53:39.431569','2026-11-27 08:53:39.560037');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_user_attributes VALUES(1,1,'record','"{\"schema\":1,\"key\":\"162ff5309e18bc1c2b58\",\"candidate\":{\"method\":\"l1\",\"options\":{},\"allocation\":{\"conv1\":{\"ratio\":0.125},\"layer1.conv1\":{\"ratio\":0.1875},\"layer2.conv1\":{\"ratio\":0.1875},\"layer2.conv2\":{\"ratio\":0.1875},\"conv3\":{\"ratio\":0.140625}},\"recipe\":{\"epochs\":0.25,\"batch_size\":32,\"lr\":0.01,\"schedule\":\"cosine\",\"momentum\":0.9,\"weight_decay\":0.0005,\"label_smoothing\":0.0,\"distill_weight\":0.9,\"temperature\":4.0,\"recalibration_images\":2048},\"seed\":0,\"judge\":\"search\",\"images\":null,\"learned_target\":null,\"until\":null},\"outcome\":{\"status\":\"ok\",\"reason\":null,\"accuracy\":0.075,\"loss\":2.3940719604492187,\"drift\":0.005591806751224703,\"merit\":null,\"images\":40,\"flops\":425342,\"params\":26904,\"bytes\":107616,\"epochs\":0.25,\"seconds\":2.4026846130000195,\"device\":\"cpu\",\"allocation\":null,\"notes\":{}},\"meta\":{\"strategy\":\"acra-uniform\",\"target\":\"0.7\",\"stage\":\"search\"},\"digest\":\"9aff489a44f5da51\"}"');
INSERT INTO trial_user_attributes VALUES(2,2,'record','"{\"schema\":1,\"key\":\"65a323b588ec5eb8d354\",\"candidate\":{\"method\":\"kse\",\"options\":{},\"allocation\":{\"layer1.conv1\":{\"G\":2,\"T\":0},\"layer1.conv2\":{\"G\":3,\"T\":0},\"layer2.conv1\":{\"G\":3,\"T\":0},\"layer2.conv2\":{\"G\":3,\"T\":0},\"layer2.shortcut.0\":{\"G\":5,\"T\":0}},\"recipe\":{\"epochs\":0.25,\"batch_size\":32,\"lr\":0.01,\"schedule\":\"cosine\",\"momentum\":0.9,\"weight_decay\":0.0005,\"label_smoothing\":0.0,\"distill_weight\":0.9,\"temperature\":4.0,\"recalibration_images\":2048},\"seed\":0,\"judge\":\"search\",\"images\":null,\"learned_target\":null,\"until\":null},\"outcome\":{\"status\":\"ok\",\"reason\":null,\"accuracy\":0.1,\"loss\":2.3383062362670897,\"drift\":0.00826683098174017,\"merit\":null,\"images\":40,\"flops\":425408,\"params\":31502,\"bytes\":126616,\"epochs\":0.25,\"seconds\":0.13782513099431526,\"device\":\"cpu\",\"allocation\":null,\"notes\":{}},\"meta\":{\"strategy\":\"acra-uniform\",\"target\":\"0.7\",\"stage\":\"search\"},\"digest\":\"6d9ec8b18fac4862\"}"');
INSERT INTO trial_user_attributes VALUES(3,3,'record','"{\"schema\":1,\"key\":\"a23661d2a9516cc2f6c5\",\"candidate\":{\"method\":\"l1\",\"options\":{},\"allocation\":{\"conv1\":{\"ratio\":0.125},\"layer1.conv1\":{\"ratio\":0.1875},\"layer2.conv1\":{\"ratio\":0.1875},\"layer2.conv2\":{\"ratio\":0.1875},\"conv3\":{\"ratio\":0.140625}},\"recipe\":{\"epochs\":0.25,\"batch_size\":32,\"lr\":0.01,\"schedule\":\"cosine\",\"momentum\":0.9,\"weight_decay\":0.0005,\"label_smoothing\":0.0,\"distill_weight\":0.9,\"temperature\":4.0,\"recalibration_images\":2048},\"seed\":0,\"judge\":\"test\",\"images\":null,\"learned_target\":null,\"until\":null},\"outcome\":{\"status\":\"ok\",\"reason\":null,\"accuracy\":0.116991643454039,\"loss\":2.3763029900766015,\"drift\":null,\"merit\":null,\"images\":359,\"flops\":425342,\"params\":26904,\"bytes\":107616,\"epochs\":0.25,\"seconds\":0.12846756700309925,\"device\":\"cpu\",\"allocation\":null,\"notes\":{}},\"meta\":{\"strategy\":\"acra-uniform\",\"target\":\"0.7\",\"stage\":\"final\"},\"digest\":\"ea101f499dd2ad71\"}"');
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
INSERT INTO trial_values VALUES(3,2,0,425408.0,'FINITE');
INSERT INTO trial_values VALUES(4,2,1,0.10000000000000000555,'FINITE');
INSERT INTO trial_values VALUES(5,3,0,425342.0,'FINITE');
INSERT INTO trial_values VALUES(6,3,1,0.11699164345403899323,'FINITE');
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
