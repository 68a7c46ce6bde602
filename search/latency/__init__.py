"""Latency: tables of layer times that predict it, and measurements of whole networks."""
