#!/bin/sh
# mlcroissant 1.1.1: a field that the metadata declares as sc:Text and whose column in a CSV file has digits alone is read as numbers
# first and written as text again. Leading zeros are lost, so that the picture ids of COCO no longer name their files, and where one
# row leaves the field empty all others get a decimal point.
# Expected: the text that stands in the file. Seen: b'139' for 000000000139, and b'139.0' where another row is empty.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mlcroissant==1.1.1 numpy==2.2.6 "pandas<3"
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import hashlib
import json
import logging
import pathlib

import mlcroissant

logging.disable(logging.WARNING)
cr, sc = "http://mlcommons.org/croissant/", "https://schema.org/"
names = "citeAs column extract field fileObject recordSet source".split()
context = {"@language": "en", "@vocab": sc, "cr": cr, "sc": sc, "dct": "http://purl.org/dc/terms/"}
context |= {name: f"cr:{name}" for name in names}
context |= {"conformsTo": "dct:conformsTo", "dataType": {"@id": "cr:dataType", "@type": "@vocab"}}


def read(rows):
    """The picture of each row, as the library reads it."""
    text = "picture,caption\n" + "".join(f"{picture},{caption}\n" for picture, caption in rows)
    pathlib.Path("captions.csv").write_text(text)
    fields = [
        {
            "@type": "cr:Field", "@id": f"all/{name}", "name": f"all/{name}", "dataType": "sc:Text",
            "source": {"fileObject": {"@id": "captions.csv"}, "extract": {"column": name}},
        }
        for name in ("picture", "caption")
    ]
    file = {
        "@type": "cr:FileObject", "@id": "captions.csv", "name": "captions.csv", "contentUrl": "captions.csv",
        "encodingFormat": "text/csv", "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    dataset = {
        "@context": context, "@type": "sc:Dataset", "name": "captions", "description": "captions of pictures",
        "conformsTo": f"{cr}1.0", "license": "CC0", "url": "https://example.org", "version": "1.0.0",
        "datePublished": "2024-01-01", "creator": {"@type": "sc:Person", "name": "somebody"}, "citeAs": "none",
        "distribution": [file], "recordSet": [{"@type": "cr:RecordSet", "@id": "all", "name": "all", "field": fields}],
    }
    pathlib.Path("croissant.json").write_text(json.dumps(dataset))
    return [record["all/picture"] for record in mlcroissant.Dataset(jsonld="croissant.json").records("all")]


whole = read([("000000000139", "a room"), ("000000000285", "a bear")])
print("each row has one:", whole)
some = read([("000000000139", "a room"), ("", "a bear")])
print("one row has none:", some)
assert whole == [b"139", b"285"], "the text is kept as it stands now"
assert some[0] == b"139.0" and some[1] is None
PY
