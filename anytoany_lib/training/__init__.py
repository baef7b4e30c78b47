"""What stands around the loop in `train`: what it is told (`setup`), what it reads (`stage_data`), what it keeps (`checkpoint`).

`fitting` and `finish` train the bridges beside the language model; `distributed` and `fsdp` are for several processes.
"""
