"""What everything else stands on and no medium or model is known in: files, folders elsewhere, threads, memory.

`files` writes whole files and keeps other processes out; `runs` reads and writes run folders; `remote` and `urls` do the
same elsewhere. `background`, `prefetch` and `interrupts` are the threads; `offloading`, `out_of_memory` and `peak_memory`
the memory of a device.
"""
