"""One's own photographs, from pictures to a tuned model: docs/walkthrough.md goes through it.

    cm3 train photos:image_tokenizer --data.sources PHOTOS       # pictures to codes and back
    cm3 train photos:clip --data.sources CAPTIONED               # an encoder, to find documents with
    cm3 tokenizer text train CAPTIONED --entries 512 --out runs/photos/tokenizer.json
    cm3 prepare CAPTIONED --out runs/photos/store --model runs/photos/image_tokenizer \\
        --tokenizer runs/photos/tokenizer.json --encoder runs/photos/clip
    cm3 neighbours runs/photos/store --bank runs/photos/store --out runs/photos/neighbours
    cm3 train photos:pretrain --data.neighbours runs/photos/neighbours
    cm3 train photos:instruct --data.sources coco_captions=CAPTIONED

A source is [KIND:]PATH[@SPLIT]: a folder, COCO's layout, web shards, JSON lines, the hub (docs/data.md). Two hundredths
of the pictures are held out and measured on. These are the sizes that a computer without a GPU trains; the paper's are
in recipes/pretrain.py and recipes/instruct.py.
"""

from __future__ import annotations

from dataclasses import replace

from cm3.data.task_source import ExampleLaw
from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import small
from cm3.runs import ClipRun, DocumentData, ImageTokenizerRun, PretrainRun, StoreData, TaskData
from cm3.sequence.mask import MaskLaw
from cm3.train.optim import OptimConfig


def image_tokenizer() -> ImageTokenizerRun:
    """128 px photographs to 8 x 8 codes of 2,560 (f16, FSQ), 1.1M parameters.

    command: cm3 train photos:image_tokenizer --data.sources PHOTOS
    data: pictures of any source, with or without captions
    price: 500 steps of 16 pictures, 3 minutes of one x86 core
    promise: none but that of the pictures; a thousand photographs come back blurred, and can be told apart.
    """
    return ImageTokenizerRun(
        # Local codes were ahead after 150 steps and behind after these 500 (docs/decisions/0018).
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2), norm="group", reach="wide"),
        size=128,
        batch=16,
        steps=500,
        optimizer="muon",
        lr=2e-3,
        muon_lr=5e-3,
        lr_end=0.01,
        channels_last=True,
        out="runs/photos/image_tokenizer",
        log_every=25,
        save_every=100,
        sample_every=250,
        data=DocumentData(("data/photos",)),
    )


def clip() -> ClipRun:
    """A small CLIP of 0.7M parameters, the encoder that documents are retrieved with.

    command: cm3 train photos:clip --data.sources CAPTIONED
    data: captioned pictures of any source; two captions of a picture are better than one
    price: 150 steps of 40 pairs, a minute of one x86 core
    promise: none. A CLIP of millions of pairs, as `--encoder openai/clip-vit-base-patch32`, finds far better.
    """
    return ClipRun(out="runs/photos/clip", steps=150, batch=40, lr=1e-3, data=DocumentData(("data/photos",)))


def pretrain() -> PretrainRun:
    """A 5.5M decoder on a token store, pretrained with the CM3 objective; it draws, describes and infills.

    first: cm3 prepare CAPTIONED --out runs/photos/store --model runs/photos/image_tokenizer
        --tokenizer runs/photos/tokenizer.json --encoder runs/photos/clip
    command: cm3 train photos:pretrain --data.stores runs/photos/store --data.neighbours runs/photos/neighbours
    data: any stores; several are mixed with --data.stores A B --data.weights 3 1. Without --data.neighbours no
    documents are retrieved. With --init BUNDLE it goes on with that model, on stores of its tokenizers.
    price: 300 steps of about 2,000 tokens, 8 minutes of one x86 core, 6 with --model.layers 4, which suit hundreds of
    documents; more of them take more --steps. On several processes, --windows as many or a multiple.
    promise: none but that of the data.
    """
    return PretrainRun(
        out="runs/photos/pretrain",
        model=DecoderConfig(
            d_model=256,
            layers=6,
            heads=4,
            context=512,
            positions="rope",
            qk_norm=True,
            init_std=0.02,
            activation="relu",
        ),
        mask=MaskLaw(rate=1.0, whole_text=0.5, whole_image=0.2, box=0.8, columns=8),
        optim=OptimConfig(
            name="muon",
            lr=3e-3,
            adam_lr=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup=30,
            decay_from=0.4,
            final=0.02,
        ),
        # Windows may be longer than the context: one of 2,048 is as full as the lengths of documents allow.
        windows=1,
        length=2048,
        steps=300,
        z_loss=1e-4,
        log_every=10,
        save_every=50,
        sample_every=500,
        image_tokenizer="runs/photos/image_tokenizer",
        data=StoreData(("runs/photos/store",)),
        sampling={"image": {"temperature": 0.9, "guidance": 2.0}, "text": {"temperature": 0.0}},
    )


def instruct() -> PretrainRun:
    """Any bundle tuned on instruction tasks of one's own data: captions, questions, edits, structures (docs/tasks.md).

    command: cm3 train photos:instruct --data.sources coco_captions=CAPTIONED boxes=coco:data/coco --init BUNDLE
    data: TASK=[KIND:]PATH[@SPLIT], or store=PATH for documents of pretraining, so that nothing is forgotten
    price: 150 steps of about 2,000 tokens, 4 minutes of one x86 core, for 4M parameters
    promise: none but that of the data.
    """
    first = pretrain()
    return replace(
        first,
        out="runs/photos/instruct",
        init="runs/photos/pretrain/bundle",
        model=DecoderConfig(),
        optim=replace(first.optim, lr=2e-3, adam_lr=2e-3, warmup=30),
        windows=4,
        length=512,
        steps=150,
        sample_every=0,
        validate_every=25,
        # Few steps, so all of them for the answers: the paper learns the whole examples.
        data=TaskData(("coco_captions=data/photos",), holdout=0.02, law=ExampleLaw(answers=1.0, loss="answer")),
    )


def by_heart() -> PretrainRun:
    """A 4M decoder that knows the captions of some photographs by heart: whether a set-up learns at all.

    command: OMP_NUM_THREADS=1 cm3 train photos:by_heart --data.sources coco:ROOT@train2017
    measure: cm3 eval by-heart coco:ROOT@train2017 --model runs/photos/by_heart/bundle
    data: 80 photographs of COCO 2017 with five captions each, and an image tokenizer of them
    price: 8 minutes of one x86 core, 350 steps, 17 passes over 400 captions
    promise: `own_caption` at least 0.9, and 1.0 when last checked: the greedy description of each of the 80 photographs
    is, word for word, one of its own five captions.
    """
    first = pretrain()
    return replace(
        first,
        out="runs/photos/by_heart",
        model=replace(first.model, layers=4),
        # Two spans on average, so that most documents hide their caption, and hide it whole: what describing asks for.
        mask=MaskLaw(rate=2.0, whole_text=0.9, whole_image=0.1, box=0.5, columns=8),
        windows=4,
        length=512,
        steps=350,
        # Four fifths of a document are codes, and they are not what is asked for here.
        text_weight=4.0,
        sample_every=350,
        data=DocumentData(("data/photos",), holdout=0.0),
        sampling={"image": {"temperature": 0.7}, "region": {"temperature": 0.7}, "text": {"temperature": 0.0}},
    )
