"""Where candidates are judged: in this process, or by Ray's workers."""
