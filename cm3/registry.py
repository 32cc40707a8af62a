"""Verbs of the command by name: what each runs, and a line for the listing.

Modules are named, not imported: nothing loads before it is asked for, and the scenes, which stand above the command and
may import all of it, bring their verbs without anything below knowing them.
"""

from __future__ import annotations

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("cm3.scenes.cli.demo:Demo", "draw, describe and infill with the model in the package"),
    "generate": ("cm3.cli.generate:Generate", "draw pictures from words"),
    "describe": ("cm3.cli.generate:Describe", "say what a picture shows, or answer a question about it"),
    "infill": ("cm3.cli.generate:Infill", "fill a hole in a picture or in a sentence"),
    "edit": ("cm3.cli.generate:Edit", "change a picture as an instruction says"),
    "segment": ("cm3.cli.generate:Segment", "make a map of what a picture shows"),
    "data inspect": ("cm3.cli.data:DataInspect", "say what a dataset holds and what is wrong with it"),
    "data show": ("cm3.cli.show:DataShow", "show what an instruction task makes of a dataset"),
    "tokenizer text train": ("cm3.cli.tokenizer:TextTrain", "learn a text tokenizer from text of any amount"),
    "tokenizer text eval": ("cm3.cli.tokenizer:TextEval", "measure a text tokenizer on text of any amount"),
    "tokenizer image train": ("cm3.cli.tokenizer:ImageTrain", "train an image tokenizer: a recipe, as cm3 train"),
    "prepare": ("cm3.cli.prepare:Prepare", "make a token store of datasets, to train on"),
    "neighbours": ("cm3.cli.neighbours:FindNeighbours", "find the documents that each is trained with"),
    "index build": ("cm3.cli.index:IndexBuild", "make a memory bank of captioned pictures, or merge banks"),
    "index add": ("cm3.cli.index:IndexAdd", "add documents to a memory bank"),
    "index delete": ("cm3.cli.index:IndexDelete", "delete documents from a memory bank"),
    "index search": ("cm3.cli.index:IndexSearch", "search a memory bank with words or with a picture"),
    "index info": ("cm3.cli.index:IndexInfo", "say what a memory bank holds, and check it"),
    "train": ("cm3.cli.train:Train", "run a recipe: pretraining, tuning, an image tokenizer"),
    "sweep": ("cm3.cli.sweep:Sweep", "search settings of a recipe, the losers stopped early"),
    "export": ("cm3.cli.export:Export", "write a bundle of a run's checkpoint"),
    "convert": ("cm3.cli.convert:Convert", "take weights of Chameleon's family in, and write them out again"),
    "inspect": ("cm3.cli.inspect_weights:Inspect", "say what weights are, and whether they are whole"),
    "chart": ("cm3.cli.chart:Chart", "draw the logs of runs as curves"),
    "plan": ("cm3.cli.plan:Plan", "say what a run will need: memory, time, energy, disk"),
    "serve": ("cm3.cli.serve:Serve", "serve a model over HTTP, with a page to play on"),
    "bench decode": ("cm3.cli.bench:BenchDecode", "measure how fast this machine decodes, against a peer"),
    "eval scenes": ("cm3.scenes.cli.eval_verbs:EvalScenes", "measure a model on scenes that it was never trained on"),
    "eval emblems": ("cm3.scenes.cli.eval_verbs:EvalEmblems", "measure drawing unseen things from one document each"),
    "eval stickers": ("cm3.stickers.cli.eval_stickers:EvalStickers", "measure a model on stickers that it never saw"),
    "eval fid": ("cm3.cli.eval_fid:EvalFid", "compare two sets of pictures: FID, precision and recall, MIND"),
    "eval clipscore": ("cm3.cli.eval_clipscore:EvalClipscore", "measure how well pictures and captions fit"),
    "eval by-heart": ("cm3.cli.eval_by_heart:EvalByHeart", "measure how many photographs get their own caption back"),
    "eval captions": ("cm3.cli.eval_captions:EvalCaptions", "score captions: CIDEr, BLEU, ROUGE-L, METEOR, SPICE"),
    "eval vqa": ("cm3.cli.eval_answers:EvalVqa", "score answers to questions about pictures"),
    "eval scienceqa": ("cm3.cli.eval_answers:EvalScienceqa", "score choices in ScienceQA"),
    "eval visdial": ("cm3.cli.eval_answers:EvalVisdial", "score ranked answers of Visual Dialog"),
    "eval claims": ("cm3.cli.eval_claims:EvalClaims", "test the paper's statements in miniature, from training on"),
    "eval tokenizer": ("cm3.cli.eval_tokenizer:EvalTokenizer", "measure an image tokenizer on pictures"),
    "eval run": ("cm3.cli.eval_run:EvalRun", "run a published benchmark on a model, resumable and shared"),
    "eval suites": ("cm3.cli.eval_run:EvalSuites", "list the benchmarks that eval run knows"),
    "eval tasks": ("cm3.cli.evaluate:EvalTasks", "measure instruction tasks on real datasets"),
    "eval compare": ("cm3.cli.eval_compare:EvalCompare", "compare results, and say which difference is noise"),
    "eval report": ("cm3.cli.eval_report:EvalReport", "show results and their samples side by side in one HTML file"),
}

RENAMED = {"tune": "sweep", "tokenizer image eval": "eval tokenizer MODEL"}
"""Verbs that were called otherwise until the last release."""
