"""A gallery without training: a pretrained network embeds a catalogue, whose own sightings fit the threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import timm
from accelerate import Accelerator

from lib.config.command_line import dump
from lib.config.recipe import Data, Recipe
from lib.files import lock_folder, write_text
from lib.models.backbone import take_channels
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights, save_network
from lib.pipelines.answering import fit_about
from lib.pipelines.encounters import viewpoints_of
from lib.pipelines.gallery_files import save_networks
from lib.pipelines.local_matching import name_files
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.pipelines.retrieve import build_training_gallery
from lib.process import announce
from lib.retrieval.held_out import hold_out_catalogue
from lib.retrieval.history import require_unchanged
from lib.retrieval.open_set import OpenSet
from lib.run_folder import RunFolder
from lib.tables import loading
from lib.tables.image_path import count_channels
from lib.tables.target import IDENTITY
from lib.training.distributed import run_on_main

NEW_LABEL = "new"
"""The new label where the recipe names none."""


def pretrained_recipe(recipe: Recipe, name: str, weights: str | None) -> Recipe:
    """Return the recipe for a pretrained network `name`, with weights of timm or of a file: a new label is named."""
    data = recipe.data if recipe.data.new_label is not None else replace(recipe.data, new_label=NEW_LABEL)
    model = replace(recipe.model, name=name, weights=weights, hidden=[], embedding_dim=None)  # a new layer would be random
    return replace(recipe, data=data, model=model)


def make_pretrained(run: RunFolder, recipe: Recipe, log: Callable[[str], None], accelerator: Accelerator) -> Recipe:
    """Write a pretrained network as the weights of `run`, and its recipe, which is returned.

    Where the recipe has the default image size, it gets the network's own. Raises FlukeError.
    """

    def make() -> int:
        network = Network(_spec(recipe, recipe.data.size))
        own = int(timm.data.resolve_data_config({}, model=network.backbone)["input_size"][-1])
        size = own if recipe.data.size == Data().size else recipe.data.size
        network = Network(_spec(recipe, size)) if size != recipe.data.size else network
        log(load_initial_weights(network, recipe.model).replace(", new head", f", images of {size} px"))
        run.weights.parent.mkdir(parents=True, exist_ok=True)
        save_network(run.weights, network)
        return size

    sized = replace(recipe, data=replace(recipe.data, size=run_on_main(accelerator, make) or recipe.data.size))
    run_on_main(accelerator, lambda: write_text(run.recipe, dump(sized)))
    return sized


def _spec(recipe: Recipe, size: int) -> NetworkSpec:
    return NetworkSpec(take_channels(recipe.model, count_channels(recipe.data)), (), IDENTITY, size, recipe.data.fit)


def build_catalogue(session: RetrievalSession) -> None:
    """Embed the recipe's training table as a gallery, fit its open-set model on its own sightings, and save it."""
    require_unchanged(session.gallery_folder)
    train = session.embed(loading.load_train(session.recipe.data, session.recipe.folds), "train")
    run_on_main(session.accelerator, lambda: _build(session, train))


def _build(session: RetrievalSession, train: EmbeddedTable) -> None:
    gallery = build_training_gallery(session, train)
    at = np.flatnonzero(train.labels != (session.recipe.data.new_label or ""))
    sightings = None if train.table.groups is None else train.table.groups[at]
    gallery.held_out = hold_out_catalogue(train.embeddings[at], gallery.rows, sightings)
    viewpoints = viewpoints_of(session.recipe, train.table, required=True)
    gallery.held_out = gallery.held_out._replace(viewpoints=None if viewpoints is None else viewpoints[at])
    gallery.held_out = name_files(session.recipe, gallery.held_out, train.table)
    gallery.about = fit_about(session, gallery, gallery.held_out)
    new, folder = gallery.held_out.is_new, session.gallery_folder
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        save_networks(folder, session.runs, session.recipes)
        gallery.save(folder)
    session.log(f"gallery: {len(gallery.rows):,} images of {len(gallery.identities):,} individuals; {folder}")
    if new.all():
        session.log(
            f"note: no individual was sighted twice, so the threshold is the score that {session.recipe.retrieval.far:.0%} of the "
            "images reach with another individual; how often a known one is found can't be said"
        )
    threshold = OpenSet.from_json(gallery.about["open_set"]).threshold
    session.log(
        f"threshold: {threshold}; " + "  ".join(f"{name} {value:.4f}" for name, value in gallery.about["validation"].items())
    )
    announce([folder], f"python scripts/retrieve.py --gallery {folder} --queries FOLDER")
