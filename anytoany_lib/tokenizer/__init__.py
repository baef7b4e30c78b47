"""From text to token ids: how `pieces` of a conversation are read, and LLaMA's SentencePiece of old (`sentencepiece_legacy`).

`messages`, on the ground floor, puts whole conversations together.
"""
