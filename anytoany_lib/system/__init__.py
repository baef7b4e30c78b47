"""What everything else stands on, without knowing media or models: files, folders elsewhere, threads, memory.

`files` writes whole files and keeps other processes out; `runs` reads and writes run folders; `remote` and `urls` do the
same elsewhere. `background`, `prefetch` and `interrupts` are the threads; `offloading`, `out_of_memory` and `peak_memory`
the memory of a device.
"""
