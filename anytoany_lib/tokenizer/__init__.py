"""From text to token ids: `pieces` of a conversation, and LLaMA's SentencePiece as it was.

`messages`, on the ground floor, puts whole conversations together.
"""
