#!/bin/sh
# openai 3.57.0, `client.chat.completions.stream` with n=2: its accumulator takes the first chunk of a choice as a list index to
# insert at, so a server that happens to write choice 1 first makes it raise IndexError. Chunks of several choices may come in
# any order by the interface.
# Expected: choices are kept by their index. Seen: IndexError for the order 1, 0; the order 0, 1 is joined rightly.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q openai==3.57.0
"$dir/venv/bin/python" - <<'PY'
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk


def joined(order):
    state = ChatCompletionStreamState()
    for index in order:
        choice = {"index": index, "delta": {"role": "assistant", "content": f"text {index}"}, "finish_reason": None}
        chunk = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        list(state.handle_chunk(ChatCompletionChunk.model_validate(chunk)))
    return [choice.message.content for choice in state.current_completion_snapshot.choices]


assert joined([0, 1]) == ["text 0", "text 1"]
try:
    found = joined([1, 0])
except IndexError as error:
    print("choices 1, 0: IndexError,", error)
else:
    raise SystemExit(f"changed: choices 1, 0 gave {found}")
PY
