"""What stands around the loop in `train`: what it begins with (`setup`), reads (`stage_data`), keeps (`checkpoint`), ends with (`finish`).

`fitting` trains the bridges beside the language model; `distributed` and `fsdp` are for several processes.
"""
