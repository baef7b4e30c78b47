"""How good the frozen tiny models are: what judges see in what they draw, probes of the encoder, model cards."""
