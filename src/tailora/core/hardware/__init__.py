"""What this machine offers: processor, memory, devices and processes. Limits of containers count.

What a system does not report is None or empty, never a guess.
"""
