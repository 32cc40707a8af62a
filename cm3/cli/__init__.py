"""The command `cm3`: one file a verb, or one for verbs that do one job.

    main.py        words -> verb; errors -> one line and an exit code
    options.py     what every verb takes: --json, --debug, --threads, --model
    parse.py       arguments -> a frozen dataclass (tyro), with one-line errors and near names
    outputs.py     checking and writing output, whole or not at all
    generate.py    generate, infill, edit, segment, describe: the verbs that use a model
    data.py show.py tokenizer.py prepare.py index.py    the verbs that get data ready
    train.py sweep.py plan.py export.py chart.py evaluate.py    the verbs that make a model and measure it
    bench.py       how fast this machine decodes
    recipe.py      file.py:function -> config
    guides.py      boxes and control images from files
    attribution.py the documents that a picture drew on, as lines and on a sheet
    sheet.py       rows of captioned pictures on one sheet (PNG)

Nothing here imports torch before a verb runs, so `cm3 --help` answers at once. A verb is a frozen dataclass whose
fields are its arguments and whose `run()` does the work, prints what a person reads and returns what `--json` prints.
"""
