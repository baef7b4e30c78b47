"""All conversations about the toy world by name, and their shares of the training rows."""

from __future__ import annotations

from anytoany_lib.toyworld.conversations.aloud import aloud
from anytoany_lib.toyworld.conversations.cells import CELLS, Task
from anytoany_lib.toyworld.conversations.questions import QUESTIONS
from anytoany_lib.toyworld.conversations.several import SEVERAL
from anytoany_lib.toyworld.conversations.turns import TURNS
from anytoany_lib.toyworld.conversations.whole import WHOLE

BEYOND: dict[str, Task] = QUESTIONS | SEVERAL | TURNS | WHOLE | {"aloud": aloud}

# A row of several turns teaches as much as several rows.
SHARES = dict.fromkeys((*CELLS, *BEYOND), 1.0) | {
    "text->text": 0.7,
    "text->image": 1.5,
    "text->audio": 1.5,
    "text->video": 2.0,
    "image->text": 1.5,
    "image->image": 2.0,
    "image->video": 1.5,
    "video->text": 1.5,
    "video->video": 1.5,
    "yes or no": 3.0,
    "which of several": 4.0,
    "same or different": 2.0,
    "picture and sound": 1.5,
    "compare": 0.5,
    "second one": 0.7,
    "mixed pictures": 3.0,
    "two outputs": 3.0,
    "three outputs": 2.5,
    "edit": 3.0,
    "follow-up": 6.0,
    "change of subject": 7.0,
    "whole request": 10.0,
    "whole conversion": 7.0,
    "whole question": 6.0,
    "whole comparison": 4.0,
    "whole remark": 4.0,
    "aloud": 2.8,
}
# Rows of plain talk beside each of these conversations.
PLAIN_SHARE = 0.33

# What a training of some hundred steps can learn: media made of media first. Telling several media apart takes ten times
# the rows, so these tasks only show their form.
BRIEF_SHARES = SHARES | {
    "text->image": 2.0,
    "text->audio": 2.0,
    "image->text": 2.0,
    "audio->text": 2.0,
    "video->text": 2.0,
    "image->image": 4.0,
    "image->audio": 4.0,
    "image->video": 4.0,
    "audio->image": 4.0,
    "audio->audio": 2.0,
    "audio->video": 4.0,
    "video->image": 4.0,
    "video->audio": 4.0,
    "video->video": 4.0,
    "yes or no": 1.0,
    "which of several": 0.5,
    "which more often": 0.5,
    "same or different": 0.3,
    "picture and sound": 0.3,
    "compare": 0.3,
    "second one": 0.3,
    "mixed pictures": 1.5,
    "two outputs": 7.0,
    "two outputs of what is shown": 3.0,
    "three outputs": 4.0,
    "edit": 4.0,
    "follow-up": 4.0,
    "change of subject": 4.0,
    "whole request": 8.0,
    "whole conversion": 12.0,
    "whole question": 4.0,
    "whole comparison": 0.5,
    "whole remark": 1.0,
    "aloud": 3.1,
}
BRIEF_PLAIN_SHARE = 0.22
