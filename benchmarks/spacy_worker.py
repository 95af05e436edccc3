"""Times spaCy's own NER for `extraction_speed.py`, in an environment that has spaCy. Imports nothing of this project.

`python spacy_worker.py WORDS SENTENCES`.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time


def main(words: int, sentences: int) -> None:
    import spacy
    from spacy.training import Example

    nlp = spacy.blank("en")
    ner = nlp.add_pipe("ner")
    known = [("Anna lives in Oslo .", [(0, 4, "Peop"), (14, 18, "Loc")]), ("Bo works for Acme .", [(13, 17, "Org")])]
    for _, entities in known:
        for *_, label in entities:
            ner.add_label(label)
    examples = [Example.from_dict(nlp.make_doc(text), {"entities": entities}) for text, entities in known]
    nlp.initialize(lambda: examples)
    for _ in range(20):
        nlp.update(examples)
    draw = random.Random(0)
    pool = ["Anna", "Berg", "met", "the", "head", "of", "Nordic", "Paper", "in", "Oslo", ",", "since", "1990", "."]
    texts = [" ".join(draw.choice(pool) for _ in range(words)) for _ in range(sentences)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for text in texts:
        nlp(text)
        started = time.process_time()
        nlp(text)
        seconds.append(time.process_time() - started)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"seconds": sum(seconds) / len(seconds), "added_bytes": added, "spacy": spacy.__version__}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
