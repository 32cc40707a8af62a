"""The command `cm3`: one file a verb.

    main.py        words -> verb; errors -> one line and an exit code
    options.py     what every verb takes: --json, --debug, --threads, --model
    parse.py       arguments -> a frozen dataclass (tyro), with one-line errors and near names
    files.py       checking and writing output, whole or not at all
    generate.py describe.py infill.py demo.py     the verbs that use a model
    data.py tokenizer.py prepare.py index.py     those that get data ready
    train.py tune.py plan.py evaluate.py         those that make one and measure it
    recipe.py      file.py:function -> config
    attribution.py what a picture drew on, as lines and on a sheet
    sheet.py       rows of captioned pictures on one sheet (PNG);  page.py the same as a page (HTML)

Nothing here imports torch before a verb runs, so `cm3 --help` answers at once. A verb is a frozen dataclass whose
fields are its arguments and whose `run()` does the work, prints what a person reads and returns what `--json` prints.
"""
