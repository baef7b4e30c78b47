"""How much memory a profile takes, before anything is loaded: rules (`planning`) and a rehearsal on shapes alone.

`preflight` looks whether this machine has the room.
"""
