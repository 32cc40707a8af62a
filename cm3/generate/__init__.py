"""CM3Leon: document in, document out. The codec, retrieval and the engine, put together.

    model = CM3Leon.load("stickers")
    model.generate("a large lion", seed=7).image
    model.generate([picture]).text
    model.generate(["a large ", Gap(), " on a sky ground", Image(picture)]).text
    model.generate(["a large lion at the top left", Image(picture).with_gap((0, 0, 128, 128))]).image
    model.generate("a large panda", retrieve=1).attribution
    model.edit(picture, "replace the lion with a large tiger").image
    for chunk in model.stream(picture): print(chunk.text)
    model.answer(picture, "what is at the top left?").text

cm3leon.py      the model
prompt.py       strings and pictures -> a document with holes
answer_plan.py  the document -> the steps of the engine, and the room that they take
settings.py     the settings of a request, by name
recommended.py  the settings that a bundle recommends, by kind of request
streaming.py    what is there already while a request runs
generation.py   the result, and the documents that it drew on
rank.py         several candidates -> the likeliest
known_world.py  warnings of words and pictures that the model was never shown
tasks.py        instruction tasks: fields -> prompt, and text -> fields
"""

from cm3.generate.cm3leon import CM3Leon
from cm3.generate.generation import Generation
from cm3.generate.prompt import Picture, Promptable, as_document, as_image
from cm3.generate.recommended import KINDS, UNCONDITIONAL
from cm3.generate.settings import Loading, Options, Progress, Settings
from cm3.generate.streaming import Chunk
from cm3.generate.tasks import Reply
from cm3.retrieval.select import Retrieved

__all__ = [
    "KINDS",
    "UNCONDITIONAL",
    "CM3Leon",
    "Chunk",
    "Generation",
    "Loading",
    "Options",
    "Picture",
    "Progress",
    "Promptable",
    "Reply",
    "Retrieved",
    "Settings",
    "as_document",
    "as_image",
]
