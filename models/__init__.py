"""What is compressed, and by what it is judged: networks, checkpoints, data, and the task of all three.

Nothing here knows of compression. Imports run one way, a line importing from those above it:

    deferred_code, errors, notices, paths, wording, locks, settings, tensor_digest
    execution: running any network, whatever its code does
    user: a user's own code and objects; registry, task_config: names of things and the settings of a task
    networks, data, checkpoints
    dense_network, task
"""
