"""The things of the small world: what they are called, which picture shows them, and how they sound.

Their names are checked against the labels and tags of `emojibase-data` when the world is opened (`assets.World`), so a wrong
code or a word that the package does not use for it is found.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Voice:
    """A sound of a General MIDI instrument: its bank, program and middle key, and what one hears it doing."""

    bank: int
    program: int
    key: int
    doing: str
    pitched: bool = True
    """Whether low and high can be told apart."""


@dataclass(frozen=True)
class Thing:
    """One thing: its name, the code of its picture, and other nouns for it among the package's words."""

    name: str
    code: str
    also: tuple[str, ...] = ()
    voice: Voice | None = None
    several: str = ""
    """The plural, where it is not the name with an s."""

    @property
    def plural(self) -> str:
        """What two of them are called."""
        return self.several or f"{self.name}s"


def _playing(program: int, key: int = 60, bank: int = 0) -> Voice:
    return Voice(bank, program, key, "playing")


DRUMS = 128  # the bank of drum kits, whose keys are instruments

TABLE = (
    # animals
    Thing("dog", "1f436", ("puppy",)),
    Thing("cat", "1f431", ("kitten", "kitty")),
    Thing("mouse", "1f42d", several="mice"),
    Thing("rabbit", "1f430", ("bunny",)),
    Thing("fox", "1f98a", several="foxes"),
    Thing("bear", "1f43b", ("grizzly",)),
    Thing("panda", "1f43c"),
    Thing("tiger", "1f42f"),
    Thing("lion", "1f981"),
    Thing("cow", "1f42e"),
    Thing("pig", "1f437"),
    Thing("frog", "1f438"),
    Thing("monkey", "1f435"),
    Thing("penguin", "1f427"),
    Thing("bird", "1f426", voice=Voice(0, 123, 67, "singing")),
    Thing("duck", "1f986"),
    Thing("owl", "1f989"),
    Thing("horse", "1f434"),
    Thing("bee", "1f41d", ("honeybee", "bumblebee")),
    Thing("butterfly", "1f98b", several="butterflies"),
    Thing("snail", "1f40c"),
    Thing("ladybird", "1f41e", ("ladybug", "beetle")),
    Thing("turtle", "1f422", ("tortoise",)),
    Thing("snake", "1f40d", ("serpent",)),
    Thing("octopus", "1f419", several="octopuses"),
    Thing("fish", "1f420", several="fish"),
    Thing("dolphin", "1f42c"),
    Thing("whale", "1f433"),
    Thing("elephant", "1f418"),
    Thing("sheep", "1f411", ("lamb",), several="sheep"),
    Thing("dinosaur", "1f996", ("T-Rex", "tyrannosaurus")),
    Thing("robot", "1f916"),
    Thing("ghost", "1f47b"),
    # what drives, sails and flies
    Thing("car", "1f697", ("automobile",)),
    Thing("train", "1f682", ("locomotive",)),
    Thing("helicopter", "1f681", ("copter",), Voice(0, 125, 60, "flying", pitched=False)),
    Thing("plane", "2708-fe0f", ("airplane", "aeroplane", "jet")),
    Thing("rocket", "1f680"),
    Thing("boat", "26f5", ("sailboat", "yacht")),
    Thing("truck", "1f69a"),
    Thing("bus", "1f68c", several="buses"),
    # what plays
    Thing("guitar", "1f3b8", voice=_playing(25, 55)),
    Thing("piano", "1f3b9", ("keyboard",), _playing(0)),
    Thing("trumpet", "1f3ba", voice=_playing(56, 65)),
    Thing("violin", "1f3bb", voice=_playing(40, 67)),
    Thing("saxophone", "1f3b7", ("sax",), _playing(65, 62)),
    Thing("accordion", "1fa97", ("squeezebox",), _playing(21, 62)),
    Thing("banjo", "1fa95", voice=_playing(105), several="banjos"),
    Thing("flute", "1fa88", voice=_playing(73, 74)),
    Thing("horn", "1f4ef", voice=_playing(60, 55)),
    Thing("drum", "1f941", voice=Voice(0, 117, 55, "beating")),
    Thing("rattle", "1fa87", ("shaker",), Voice(DRUMS, 0, 70, "shaking", pitched=False)),
    Thing("bell", "1f514", voice=Voice(8, 14, 62, "ringing")),
    # what else is heard
    Thing("telephone", "1f4de", ("phone",), Voice(0, 124, 60, "ringing")),
    Thing("alarm clock", "23f0", ("clock",), Voice(0, 112, 74, "ringing")),
    Thing("wave", "1f30a", voice=Voice(0, 122, 60, "breaking", pitched=False)),
    # what is only seen
    Thing("cake", "1f382"),
    Thing("snowman", "26c4", several="snowmen"),
    Thing("star", "2b50"),
    Thing("umbrella", "2602-fe0f"),
    Thing("heart", "2764-fe0f"),
    Thing("cloud", "2601-fe0f"),
    Thing("apple", "1f34e"),
    Thing("mushroom", "1f344", ("toadstool",)),
    Thing("crown", "1f451"),
    Thing("gift", "1f381", ("present",)),
)
THINGS = {thing.name: thing for thing in TABLE}
HEARD = tuple(thing.name for thing in TABLE if thing.voice)
