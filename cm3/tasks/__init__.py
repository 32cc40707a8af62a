"""Instruction tasks: Table 5 of the paper, each row one definition for training examples and for a user's prompts.

    reader's document --annotated--> document --Task.examples--> Example --encode--> tokens, loss weights
    a user's request  ---------------------------Task.prompt---> document with a hole

template.py       the paper's words -> parts, and back      boxes.py        places in words
task.py           Task, Example, encode                     examples.py     a task by name; examples of a reader
picture_tasks.py  tasks that give a picture                 text_tasks.py   tasks that give a text
control.py        edges, depth, segmentation, pose: pictures that guide another
"""

from cm3.tasks.examples import TASKS, annotated, find_task, from_reader
from cm3.tasks.task import Example, Task, View, Weighted, encode
from cm3.tasks.template import Template

__all__ = [
    "TASKS",
    "Example",
    "Task",
    "Template",
    "View",
    "Weighted",
    "annotated",
    "encode",
    "find_task",
    "from_reader",
]
