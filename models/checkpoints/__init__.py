"""Weights in files. Reading runs no code that a file holds; loading finds the network's weights in any usual form.

reading (with pickle_scan and pickled_names) makes plain data of a file, state_dicts finds weights in them, loading puts
these into a network, folding advises on weights kept in parts, writing makes files.
"""
