"""The page's sections of images: mistakes with their maps, likely label errors, samples.

A tile contains all its views. The script shows one at a time; without it all are shown.
"""

from __future__ import annotations

import numpy as np

from .galleries import how_chosen
from .page import esc, section, table
from .read import Run
from .records import Mistake
from .tiles import data_uri, overlay
from .words import cut, percent, sure

MOST_SIDE = 128  # pixels of an image on the page
VIEWS = {
    "image": "Images",
    "predicted": "Map for the predicted class",
    "true": "Map for the true class",
}


def mistakes(run: Run) -> str:
    """Return the misclassified images; a tile switches between the image and its two maps."""
    if run.mistakes is None:
        return ""
    shown, images = run.mistakes.shown, run.pictures("images")
    suspects = {found.place for found in run.mistakes.label_errors}
    lead = how_chosen(run)
    if shown:
        place = f"the index in the {run.analysed} set"
        below = f"{place}, and the file" if shown[0].file else f"and {place}"
        lead += f" In bold: the predicted class; below: the true class, {below}."
    if not len(images):
        listed = _listed(shown, "Mistakes", of=run.analysed) if shown else ""
        return section("mistakes", "Mistakes", lead, listed)
    maps = {name: run.arrays.get(f"{name}_maps") for name in ("predicted", "true")}
    there = {name: found for name, found in maps.items() if found is not None}
    tiles = "\n".join(
        _tile(
            mistake,
            image,
            {name: found[i] for name, found in there.items()},
            suspect=mistake.place in suspects,
            of=run.analysed,
        )
        for i, (mistake, image) in enumerate(zip(shown, images, strict=True))
    )
    if there:
        of = f" of {run.mistakes.layer}" if run.mistakes.layer else ""
        lead += f" Press a tile for its Grad-CAM maps{of}: bright is evidence for the class."
    views = _views(["image", *there]) if there else ""
    content = f'<div class="gallery">{views}\n<div class="tiles">\n{tiles}\n</div></div>'
    return section("mistakes", "Mistakes", lead, content)


def _views(names: list[str]) -> str:
    buttons = "".join(
        f'<button type="button" data-all="{name}" aria-pressed="{str(name == "image").lower()}">'
        f"{esc(VIEWS[name])}</button>"
        for name in names
    )
    return f'<div class="views" role="group" aria-label="What all tiles show">{buttons}</div>'


def _tile(
    mistake: Mistake, image: np.ndarray, maps: dict[str, np.ndarray], *, suspect: bool, of: str
) -> str:
    """Return a tile: its views in a button if there are maps, else the image alone.

    `of` is the split of the image.
    """
    name = f"{of} image {mistake.place}"
    views = _img(image, f"{name}, a {mistake.true}", "image", "")
    for which, heat in maps.items():
        target = getattr(mistake, which)
        alt = f"{name}: where the network looked for {target}, its {which} class"
        views += _img(overlay(image, heat, max(1, 96 // len(image))), alt, which, f"map: {target}")
    if maps:
        views = f'<button type="button">{views}<span class="showing"></span></button>'
    return _figure(views, mistake, ' data-view="image"' if maps else "", suspect=suspect)


def _figure(
    content: str, mistake: Mistake, attributes: str = "", *, verb: str = "is", suspect: bool = False
) -> str:
    mark = " · label?" if suspect else ""
    file = f"<small>{esc(cut(mistake.file))}</small>" if mistake.file else ""
    return (
        f'<figure class="tile"{attributes}>{content}<figcaption>'
        f"<strong>{esc(mistake.predicted)}</strong> {sure(mistake.confidence)}"
        f"<small>{verb} {esc(mistake.true)} · #{mistake.place}{mark}</small>{file}"
        "</figcaption></figure>"
    )


def _img(image: np.ndarray, alt: str, view: str, caption: str) -> str:
    image = _shrunk(image)
    height, width, _ = image.shape
    return (
        f'<img data-view="{view}" data-says="{esc(caption)}" alt="{esc(alt)}" '
        f'width="{width}" height="{height}" src="{data_uri(image)}">'
    )


def _shrunk(image: np.ndarray) -> np.ndarray:
    """An image of MOST_SIDE pixels at most, each the mean of a square: a hundred of 224 pixels
    would make a page of 20 MB."""
    factor = -(-len(image) // MOST_SIDE)
    if factor == 1:
        return image
    side = len(image) // factor
    squares = image[: side * factor, : side * factor].reshape(side, factor, side, factor, 3)
    return squares.mean(axis=(1, 3)).round().astype(np.uint8)


def _listed(shown: tuple[Mistake, ...], caption: str, *, of: str) -> str:
    """Return the mistakes as a table, for a run without their images."""
    head = (f"{of} image", "taken for", "is", "confidence")
    rows = [
        [
            (f"{found.place} {esc(cut(found.file))}".strip(), None),
            (esc(found.predicted), None),
            (esc(found.true), None),
            (sure(found.confidence), found.confidence),
        ]
        for found in shown
    ]
    return table(caption, head, rows, sortable=True)


def label_errors(run: Run) -> str:
    """Return the images whose label the network contradicts with the most confidence.

    Those among the mistakes above are only counted.
    """
    suspects = run.mistakes.label_errors if run.mistakes else ()
    if not suspects or run.mistakes is None:
        return ""
    above = {mistake.place for mistake in run.mistakes.shown}
    further = [i for i, found in enumerate(suspects) if found.place not in above]
    lead = (
        "Here the network contradicts the label with the most confidence; its own answer is in "
        f"bold. {_caveat(run)} Only a person can say whether a label is wrong."
    )
    if len(further) < len(suspects):
        marked = f"{len(suspects) - len(further)} of {len(suspects)}" if further else "All of them"
        lead += f" {marked} are among the mistakes above, marked “label?”."
    images = run.pictures("label_error_images")
    if not len(images) or not further:
        listed = tuple(suspects[i] for i in further)
        content = _listed(listed, "Likely label errors", of=run.analysed) if listed else ""
        return section("labels", "Likely label errors", lead, content)
    tiles = "\n".join(_suspect(suspects[i], images[i], of=run.analysed) for i in further)
    return section("labels", "Likely label errors", lead, f'<div class="tiles">\n{tiles}\n</div>')


def _caveat(run: Run) -> str:
    """Describe how often the network itself is wrong."""
    right, images = (sum(getattr(row, key) for row in run.classes) for key in ("correct", "images"))
    if not images:
        return "Many of these are its own mistakes."
    wrong = percent(1 - right / images, 1)
    of = f"{wrong} of the {run.analysed} images"
    return f"It is wrong itself on {of}, so many of these are its mistakes."


def _suspect(mistake: Mistake, image: np.ndarray, *, of: str) -> str:
    name = f"{of} image {mistake.place}, labelled {mistake.true}"
    return _figure(_img(image, name, "image", ""), mistake, verb="labelled")


def samples(run: Run) -> str:
    """Return training images, each with its augmented version."""
    before, after = run.pictures("sample_originals"), run.pictures("sample_augmented")
    if not len(before) or not len(after):
        return ""
    names = run.sample_names or [""] * len(before)
    pairs = "\n".join(map(_pair, range(1, len(before) + 1), before, after, names))
    lead = "In each pair: the stored image above, the augmented one below."
    content = f'<div class="tiles pairs">\n{pairs}\n</div>'
    return section("samples", "Training images and their augmentation", lead, content)


def _pair(number: int, old: np.ndarray, new: np.ndarray, name: str) -> str:
    label = f"training sample {number}" + (f", a {name}" if name else "")
    caption = f"<figcaption>{esc(name)}</figcaption>" if name else ""
    return (
        f'<figure class="tile">{_img(old, f"{label}, as stored", "image", "")}'
        f"{_img(new, f'{label}, augmented', 'image', '')}{caption}</figure>"
    )
