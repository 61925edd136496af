"""The command line of both twins: main.py chooses the verb, and each verb has one file.

A verb reads its flags into a dataclass, calls the other rooms, and writes files and text. edit_flags.py holds the flags
of every kind of edit. This room may import every room of core. It imports no framework: a verb reaches one through
core.twin, once --help is out of the way.
"""
