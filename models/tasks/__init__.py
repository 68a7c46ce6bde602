"""Tasks as the engine sees them: `loaded` is what it asks of one, `load` finds the one that a configuration names.

`pictures` is the classification of pictures, `given` adapts a user's own `models.task.Task`.
"""
