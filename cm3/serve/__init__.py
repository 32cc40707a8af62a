"""A server: HTTP in the form that image clients speak, and one loop that feeds the engine.

    request -> fields, pictures -> Document -> Service: desk -> engine loop -> desk -> answer, or events

    service = Service(CM3Leon.load("stickers"))
    app = create_app(service)             # an ASGI application, for uvicorn or Ray Serve

limits.py       limits
service.py      a layout of prompts -> their generations, or what comes of them meanwhile
engine_loop.py  the one thread that steps the engine
problem.py      errors, in the form of the interface
sse.py          events while an answer comes
gate.py         before every request: its id, its API key (keys.py), measures (prometheus.py), its line (logs.py)
guard.py        around every request: the limit of its body, the client that leaves
bodies.py       fields of requests, and which are refused
sent_pictures.py  pictures in requests and answers: bytes, base64, URLs; PNG, WebP, JPEG
canvas.py       the picture that an answer is laid on, to the pixel of a mask
images.py       pictures from words, and edits
conversation.py messages -> a prompt or a task; answering.py: its answer, whole or piece by piece
chat.py         the form of chats; responses.py: that of responses
bank.py         the memory bank: search, and where it is allowed add and delete
replicas.py     the application in several processes, on Ray Serve
page_files.py   the playground of page/, as files
app.py          routes and handlers of errors, put together
"""
