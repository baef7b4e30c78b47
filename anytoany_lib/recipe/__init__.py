"""The recipe: from public data and published models to a measured any-to-any checkpoint, on one card in a day.

`settings` says what a recipe is (`card_day.yaml` is the kit's), `plan` what it takes on a card, by the rates in `rates`;
`sources` looks whether the data are there, `joining` makes one dataset of them, `steps` does it all and goes on after a kill,
`measuring` holds the result against the recipe's targets. Begin in `command`: `anytoany recipe`.
"""
