"""`panbench fuse`: applies fusion rules to a run's stored network outputs, or to raw arrays of any framework."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panbench.base.errors import BadArgument, BadRun, refuse_overwrite_and_resume
from panbench.base.files import atomic_write, write_json
from panbench.cli import console
from panbench.cli.command import OFFSET, AsJson, check_rules, command, family, flag, option

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.evaluation.stored.rule_statistics import Readable
    from panbench.models.labels import CategoryIds
    from panbench.models.rules import Rule
    from panbench.runs import Run
    from panbench.studies.fusing.results import ResultsModel

app = family()


@command(
    app,
    "fuse",
    "panbench fuse results/m2f --rule maskformer,argmax --out results/rules",
    "panbench fuse results/m2f --sweep mask2former:score=0.5:0.9:0.1 --out sweep",
    "panbench fuse results/m2f --oracle",
    "panbench fuse --arrays outputs.npz --rule mask2former --out maps.npz",
    "panbench fuse --arrays outputs.npz --rule mask2former:score=0.7 --out mine",
    "panbench fuse --instances r.json --images gt.json --rule combine --out out",
    needs={
        **dict.fromkeys(("--semantic", "--images", "--categories"), ("--instances",)),
        **dict.fromkeys(("--halves", "--yes"), ("--sweep",)),
        "--offset": ("--semantic",),
    },
    idle_beside={
        "--save-predictions": ("--sweep", "--oracle", "--arrays"),
        "--overwrite": ("--oracle",),
        "--resume": ("--arrays",),
    },
)
def fuse(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run that was made with `eval --keep-candidates`.")
    ] = None,
    arrays: Annotated[
        Path | None,
        option("Raw outputs instead of a run; docs/fusion.md has the names of the arrays.", metavar="FILE.npz"),
    ] = None,
    instances: Annotated[
        Path | None, option("COCO's instance results instead of a run: a list with scores.", metavar="FILE.json")
    ] = None,
    semantic: Annotated[
        Path | None, option("--instances: semantic PNGs, one channel. Without, only things.", metavar="DIR")
    ] = None,
    offset: Annotated[str, option(OFFSET, metavar="N|order|FILE")] = "0",
    images: Annotated[
        Path | None, option("--instances: the panoptic ground truth, or a JSON with `images`.", metavar="FILE.json")
    ] = None,
    categories: Annotated[
        str | None,
        option("--instances: the categories, where --images has none: coco, … or a JSON.", metavar="NAME|FILE"),
    ] = None,
    rule: Annotated[
        str | None,
        option(
            "Rules, with thresholds after a colon, comma-separated.", metavar="NAME[:KEY=VALUE,…]", callback=check_rules
        ),
    ] = None,
    sweep: Annotated[
        str | None, option("A grid of thresholds, first:last:step each.", metavar="NAME:KEY=A:B:STEP,…")
    ] = None,
    oracle: Annotated[
        bool, flag("--oracle", "Store a lower bound on the cost of fusion in the run; `panbench errors` shows it.")
    ] = False,
    out: Annotated[
        Path | None, option("A folder for runs, a sweep or COCO PNGs; FILE.npz for arrays.", metavar="DIR|FILE.npz")
    ] = None,
    save_predictions: Annotated[bool, flag("--save-predictions", "Also write COCO panoptic PNGs and JSON.")] = False,
    overwrite: Annotated[bool, flag("--overwrite", "Replace the contents of the folder.")] = False,
    resume: Annotated[bool, flag("--resume", "Continue interrupted runs; sweeps and oracles always continue.")] = False,
    halves: Annotated[int, option("The seed of the halves of a sweep.", metavar="N")] = 0,
    yes: Annotated[bool, flag("--yes", "Also sweep more than 10,000 points.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fuse stored masks and scores into panoptic maps by the rule of any paper, without the network."""
    if [run, arrays, instances].count(None) != 2:
        raise BadArgument("Give exactly one of a RUN with stored candidates, --arrays and --instances.")
    refuse_overwrite_and_resume(overwrite, resume)
    wishes = [rule is not None, sweep is not None, oracle]
    if sum(wishes) != 1:
        raise BadArgument("Give one of --rule, --sweep and --oracle.")
    if out is None and not oracle:
        raise BadArgument("--out is missing: the folder, or for --arrays the file, to write to.")
    if instances is not None:
        if images is None or out is None or oracle:
            raise BadArgument("--instances takes --images, --out, and --rule or --sweep.")
        results = _InstanceFiles(instances, semantic, offset, images, categories)
        if sweep is not None:
            _sweep_instance_files(results, sweep, out, halves, overwrite, yes, as_json)
        else:
            assert rule is not None
            _fuse_instance_files(results, rule, out, overwrite, resume, as_json)
    elif run is None:
        assert arrays is not None
        if rule is None or out is None:
            raise BadArgument("--arrays takes --rule and --out; sweeps and oracles need a run with its ground truth.")
        _fuse_npz(arrays, rule, out, overwrite, as_json)
    elif oracle:
        if out is not None:
            raise BadArgument("--oracle stores what it finds in RUN. Leave out --out.")
        _store_oracle(run, as_json)
    elif sweep is not None:
        assert out is not None
        _sweep_run(run, sweep, out, halves, overwrite, yes, as_json)
    else:
        assert out is not None
        assert rule is not None
        _fuse_run(run, rule, out, save_predictions, overwrite, resume, as_json)


@dataclass(frozen=True)
class _SweepInput:
    """The candidates, dataset and rule that a sweep starts from.

    of: identifies the chunks of an interrupted sweep; check: raises for unfit rules
    """

    stored: "Readable"
    dataset: "Dataset"
    ids: "CategoryIds"
    paper: "Rule"
    check: "Callable[[Rule], None]"
    of: str
    title: str


@dataclass(frozen=True)
class _InstanceFiles:
    """The files of `--instances`: scored instances, semantic maps, the list of images, and categories."""

    instances: Path
    semantic: Path | None
    offset: str
    images: Path
    categories: str | None

    def model_and_images(self, least_score: float) -> "tuple[ResultsModel, Dataset]":
        """Returns a model that replays the stored instances with scores from `least_score` on, and their images."""
        from panbench.datasets.convert import categories_named
        from panbench.datasets.label_maps import SemanticMaps
        from panbench.studies.fusing.results import InstanceResults, ResultsModel, images_to_fuse

        named = None if self.categories is None else categories_named(self.categories)
        dataset = images_to_fuse(self.images, named)
        maps = None if self.semantic is None else SemanticMaps(self.semantic, dataset.categories, self.offset)
        return ResultsModel(InstanceResults.of(self.instances, dataset, maps, least_score)), dataset


def _fuse_instance_files(
    results: _InstanceFiles, text: str, out: Path, overwrite: bool, resume: bool, as_json: bool
) -> None:
    """Fuses the files of `--instances` by each rule, into a run of its own."""
    with console.Bars() as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.evaluate import evaluate_rules
        from panbench.evaluation.options import EvaluateOptions
        from panbench.models.rules import parse_rules
        from panbench.models.rules.panoptic_fpn import PanopticFPN
        from panbench.studies.fusing.again import folder_of_rule

        rules = parse_rules(text, PanopticFPN())
        model, dataset = results.model_and_images(min(rule.least_gate for rule in rules))
        folders = {rule: folder_of_rule(out, rule, len(rules) > 1) for rule in rules}
        options = EvaluateOptions(
            overwrite=overwrite, resume=resume, save_predictions=True, command=("panbench", *sys.argv[1:])
        )
        runs = evaluate_rules(model, dataset, folders, options, bars)
    _print_fused_runs(runs, as_json, dataset.has_ground_truth)
    for each in runs:
        console.hint(f"{each.info.rule}: {each.path}, with predictions.json")


def _sweep_instance_files(
    results: _InstanceFiles, text: str, out: Path, seed: int, overwrite: bool, yes: bool, as_json: bool
) -> None:
    """Sweeps thresholds over the files of `--instances`."""

    def open_sweep_input() -> _SweepInput:
        """Reads the instances, semantic maps and images to fuse from the files that the user named. Imports PyTorch."""
        from panbench.evaluation.wrapping import refuse_unfit
        from panbench.studies.fusing.again import parse_sweep

        least = min(rule.least_gate for rule in parse_sweep(text))
        model, dataset = results.model_and_images(min(least, PanopticFPN().least_gate))
        ids = model.category_ids(dataset.categories)
        of = " ".join(map(str, model.settings.values()))
        return _SweepInput(model.results, dataset, ids, model.rule, lambda rule: refuse_unfit(rule, model), of, "")

    from panbench.models.rules.panoptic_fpn import PanopticFPN

    _write_sweep(open_sweep_input, text, out, seed, overwrite, yes, as_json)


def _print_fused_runs(runs: "Sequence[Run]", as_json: bool, scored: bool = True) -> None:
    """Prints the scores of runs as a table (if `scored`), or as JSON with their paths."""
    from panbench.report.answers.tables import comparison_row, comparison_text, row_record

    rows = [comparison_row(each) for each in runs]
    if as_json:
        console.show_json([{**row_record(row), "path": str(run.path)} for run, row in zip(runs, rows, strict=True)])
    elif scored:
        console.show(comparison_text(rows))


def _run_with_candidates(path: Path, mapped: bool = True) -> "Run":
    """Loads a run, without PyTorch. Raises BadRun if it stored no network outputs to fuse again.

    mapped: False raises BadArgument for a run through a category map, which sweeps and oracles do not support
    """
    from panbench.runs import candidate_files, load_run

    run = load_run(path)
    if not candidate_files(path):
        raise BadRun(f"{run.name} holds no candidates. Make the run with `panbench eval --keep-candidates`.")
    if not mapped and run.info.category_map is not None:
        raise BadArgument(
            f"{run.name} was evaluated through a category map, which sweeps and oracles do not go through. --rule does."
        )
    return run


def _fuse_run(
    path: Path, rule: str, out: Path, save_predictions: bool, overwrite: bool, resume: bool, as_json: bool
) -> None:
    """Fuses a run's stored network outputs by each rule into a run of its own, and prints all scores."""
    loaded = _run_with_candidates(path)
    with console.Bars() as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.options import EvaluateOptions
        from panbench.evaluation.stored.stored_model import StoredModel
        from panbench.models.rules import parse_rules
        from panbench.studies.fusing.again import fuse_run

        rules = parse_rules(rule, StoredModel(loaded).paper)
        options = EvaluateOptions(
            overwrite=overwrite, resume=resume, save_predictions=save_predictions, command=("panbench", *sys.argv[1:])
        )
        runs = fuse_run(loaded, rules, out, options=options, reporter=bars)
    _print_fused_runs([loaded, *runs], as_json)
    for each in runs:
        console.hint(f"{each.info.rule}: {each.path}")
    console.hint(f"Are they different? `panbench compare {shlex.join(str(each.path) for each in (loaded, *runs))}`")


def _sweep_run(path: Path, text: str, out: Path, seed: int, overwrite: bool, yes: bool, as_json: bool) -> None:
    """Sweeps thresholds over a run's stored candidates."""
    loaded = _run_with_candidates(path, mapped=False)

    def open_sweep_input() -> "_SweepInput":
        """Opens the network outputs that the run stored. Imports PyTorch."""
        from panbench.evaluation.stored.stored_model import StoredModel, dataset_of
        from panbench.report.answers.tables import comparison_row

        model = StoredModel(loaded)
        dataset = dataset_of(loaded, model.stored.image_ids)
        ids = model.category_ids(dataset.categories)
        title = comparison_row(loaded).title
        return _SweepInput(model.stored, dataset, ids, model.paper, model.check, f"sweep of {loaded.info.id}", title)

    _write_sweep(open_sweep_input, text, out, seed, overwrite, yes, as_json)


def _write_sweep(
    open_sweep_input: "Callable[[], _SweepInput]",
    text: str,
    out: Path,
    seed: int,
    overwrite: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Writes the PQ of all combinations of fusion thresholds, and cross-validates the best on halves of the images.

    open_sweep_input: imports PyTorch
    """
    from panbench.evaluation.stored.tuning import tune
    from panbench.studies.fusing.answer import heat_map, sweep_grids, sweep_record, thresholds_of

    files = [out / name for name in ("sweep.json", "sweep.csv", "sweep.png")]
    if not overwrite and any(file.exists() for file in files):
        raise BadArgument(f"{out} holds a sweep already. Give another --out, or --overwrite.")
    with console.Bars() as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.stored.rule_statistics import ChunkCache, rule_statistics
        from panbench.studies.fusing.again import MOST_POINTS, count_sweep_points, parse_sweep

        count = count_sweep_points(text)
        if count > MOST_POINTS and not yes:
            raise BadArgument(
                f"--sweep {text} has {count:,} points, more than {MOST_POINTS:,}. Add --yes to try them all."
            )
        swept = open_sweep_input()
        rules = list(dict.fromkeys([swept.paper, *parse_sweep(text, swept.paper)]))
        for each in rules:
            swept.check(each)
        cache, dataset = ChunkCache(out / "blocks", swept.of), swept.dataset
        found = rule_statistics(
            swept.stored, dataset.scenes, dataset.categories, swept.ids, rules, cache=cache, reporter=bars
        )
        bars.status("Choosing on halves")
        tuned = tune(found, str(swept.paper), seed=seed)
    thresholds = {str(each): thresholds_of(each.record()) for each in rules}
    record = sweep_record(tuned, thresholds)
    if as_json:
        console.show_json(record)
    else:
        console.show_grids(sweep_grids(tuned, thresholds))
    write_json(files[0], record)
    with atomic_write(files[1], "w") as handle:
        tuned.table.to_csv(handle, index=False)
    figure = heat_map(tuned, thresholds, swept.title)
    with atomic_write(files[2]) as handle:
        figure.savefig(handle, format="png", dpi=200)
    cache.clear()
    if as_json:
        console.hint(f"Written: {', '.join(map(str, files))}")
    else:
        console.wrote(files)


def _store_oracle(path: Path, as_json: bool) -> None:
    """Computes a run's PQ with fusion decisions set to the truth (its oracle), stores it in the run and prints it."""
    from panbench.runs import ORACLE_BLOCKS
    from panbench.studies.fusing.answer import ORACLE_VERSION, oracle_grid, oracle_record, write_oracle

    loaded = _run_with_candidates(path, mapped=False)
    with console.Bars() as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.stored.rule_statistics import ChunkCache
        from panbench.evaluation.stored.stored_model import StoredModel, dataset_of
        from panbench.studies.fusing.again import oracle_statistics, other_rules

        model = StoredModel(loaded)
        dataset = dataset_of(loaded, model.stored.image_ids)
        ids = model.category_ids(dataset.categories)
        others = other_rules(model)
        of = f"oracle {ORACLE_VERSION} of {loaded.info.id} with {', '.join(map(str, others))}"
        cache = ChunkCache(path / ORACLE_BLOCKS, of)
        steps = oracle_statistics(
            model.stored,
            dataset.scenes,
            dataset.categories,
            ids,
            model.paper,
            others=others,
            cache=cache,
            reporter=bars,
        )
    written = write_oracle(loaded, steps)
    cache.clear()
    if as_json:
        console.show_json(oracle_record(steps))
    else:
        console.show_grids([oracle_grid(steps)])
    console.hint(f"Stored in {written}; `panbench errors {path}` shows it again.")


def _fuse_npz(arrays: Path, rule: str, out: Path, overwrite: bool, as_json: bool) -> None:
    """Fuses the arrays of an .npz file, and writes maps or COCO panoptic predictions."""
    if out.suffix == ".npz" and out.is_dir():
        raise BadArgument(f"{out} is a folder. Name a file, or a folder without the ending .npz.")

    from panbench.models.rules import parse_rule
    from panbench.studies.fusing.arrays import (
        check_predictions,
        fuse_arrays,
        read_arrays,
        write_fused_maps,
        write_predictions,
    )

    chosen = parse_rule(rule)
    read = read_arrays(arrays)
    if out.suffix != ".npz":
        check_predictions(read, out, overwrite=overwrite)
    maps = list(fuse_arrays(read, chosen))
    if out.suffix == ".npz":
        write_fused_maps(out, maps, chosen)
        written = out
    else:
        written = write_predictions(read, out, maps)
    void = sum(int((ids == 0).sum()) for ids, _ in maps) / max(1, sum(ids.size for ids, _ in maps))
    segments = sum(len(found) for _, found in maps)
    if as_json:
        found = {"rule": str(chosen), "images": len(maps), "segments": segments, "void": void, "path": str(written)}
        console.show_json(found)
        return
    console.wrote([written])
    console.hint(f"{chosen}: {len(maps)} images, {segments} segments, {100 * void:.1f} % void")
