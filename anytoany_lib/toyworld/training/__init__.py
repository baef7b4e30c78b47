"""How the frozen tiny models of the toy world were trained: ImageBind, three diffusion decoders, the judges."""
