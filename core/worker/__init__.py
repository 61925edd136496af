"""The worker: a process through which tests, the parity ladder and the benchmark run a twin's tasks.

protocol.py reads requests and writes answers; tasks.py and timing.py have the tasks that need no tensors, and the
module `worker` of each twin has those that need them.
This room may import every room of core except core.commands, and no framework.
"""
