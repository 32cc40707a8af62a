"""Predictions, made anywhere -> figures. No model that draws or writes is run here; networks that measure may be.

captions.py     captions: ptb.py (words), ngrams.py, cider.py, bleu.py, rouge.py; meteor.py, spice.py (programs)
vqa.py          answers to questions; scienceqa.py: choices; visdial.py: ranks; records.py: how all of these are read
result.py       what every scorer returns; result_file.py: the page that is kept of it (the manifest)
bootstrap.py    intervals of figures, and of differences; compare.py: two results, and what of them is noise
captions.py     captions: ptb.py (words), ngrams.py, cider.py, bleu.py, rouge.py, and programs: meteor.py, spice.py
vqa.py          answers to questions; scienceqa.py: choices; visdial.py: ranks; records.py: how all of these are read
fid.py          sets of pictures against each other: frechet.py, precision_recall.py, mind.py
clipscore.py    pictures against their captions
reconstruction.py   an image tokenizer: PSNR, SSIM, LPIPS, rFID, the use of its codes
features.py     vectors of pictures: inception.py, or a CLIP or a DINO
"""
