"""The methods that train: each on a tiny network, against closed forms, other libraries, or known noise."""

import dataclasses
from pathlib import Path

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from sklearn.mixture import GaussianMixture

import bnn_jax
from bnn_jax import Config, Dataset, InputError, Posterior
from bnn_jax.methods import get, laplace, mixture, names, recorder, register, training
from bnn_jax.methods.base import example_graph
from bnn_jax.methods.dropout import drop
from bnn_jax.methods.features import atom_features
from bnn_jax.methods.preparation import prepare
from bnn_jax.model import channel_readers, nequip, readout, with_readout
from bnn_jax.training import Progress
from bnn_jax.units import EV_PER_KCAL_PER_MOL
from bnn_jax.verdict import judge
from tests import systems
from tests.methods.test_sghmc import log_rows

MODEL = {"num_blocks": 1, "num_features": 4, "l_max": 1, "cutoff": 3.0, "num_bessel": 4, "radial_hidden": [4]}
MODEL |= {"std_hidden": [4]}
TRAINER = {"num_steps": 12, "log_every": 5, "batch_size": 3}
SECTIONS = {
    "ensemble": {"num_members": 3},
    "shallow": {"num_readouts": 3},
    "dropout": {"num_passes": 3, "rate": 0.2},
    "ivon": {"num_samples": 3},
    "mixture": {"num_components": 3},
    "laplace": {"zeta": 1e-2},
}
"""One configuration for all tests that do not need another: runs of equal configuration share what they compile."""
TRAINED = [name for name in names() if name != "sghmc"]


def config_of(method: str, trainer: dict | None = None, **sections) -> Config:
    return Config.from_dict(
        {"method": method, "model": MODEL, "trainer": TRAINER | (trainer or {})} | SECTIONS | sections
    )


def water(number: int, seed: int) -> Dataset:
    return Dataset.from_atoms(systems.labelled_series(systems.water(), number, seed=seed))


def run(method: str, seed: int = 0, out: Path | None = None, resume: bool = False, **sections) -> Posterior:
    config = config_of(method, **sections)
    key, train, valid = jax.random.key(seed), water(8, 0), water(4, 9)
    return get(method).fit(key, train, valid, config, seed=seed, out=out, resume=resume, progress=False)


@pytest.fixture(scope="module", params=TRAINED)
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return run(request.param)


def test_every_method_predicts_and_says_what_it_knows(posterior: Posterior) -> None:
    method = posterior.config.method
    predictive = posterior.predict(systems.rattled(systems.water()))
    assert predictive.forces.shape == (3, 3) and np.isfinite(predictive.forces).all()
    assert np.isfinite(predictive.forces_score).all() and np.ptp(predictive.forces_score) > 0
    has_forces_std, has_energy_std = np.isfinite(predictive.forces_std).all(), np.isfinite(predictive.energy_std).all()
    assert has_forces_std == (method != "mixture")
    assert has_energy_std == (method not in ("mixture", "mean_variance", "evidential"))
    assert (predictive.forces_std_aleatoric == 0).all() == (method in ("laplace", "shallow"))
    assert (predictive.forces_std_epistemic > 0).all() == (method not in ("mean_variance", "mixture"))


def test_every_method_is_saved_and_exported(posterior: Posterior, tmp_path: Path) -> None:
    atoms = systems.rattled(systems.water())
    there = posterior.predict(atoms)
    back = Posterior.load(posterior.save(tmp_path / "posterior.safetensors"))
    assert back.config == posterior.config
    exported = bnn_jax.load_exported(posterior.export(tmp_path / "exported.safetensors", ["cpu"]))
    for one, other in zip(jax.tree.leaves(there), jax.tree.leaves(back.predict(atoms)), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(there), jax.tree.leaves(exported.predict(atoms)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)  # another program, with other fusions


def test_every_method_is_evaluated(posterior: Posterior) -> None:
    scores = bnn_jax.evaluate(posterior, water(5, 40))
    assert np.isfinite(scores["forces_mae"])
    assert np.isfinite(scores["forces_mll"]) == (posterior.config.method != "mixture")


def test_forces_are_the_gradient_of_the_energy_and_turn_with_the_molecule(posterior: Posterior) -> None:
    atoms, rotation = systems.rattled(systems.water()), systems.random_rotation()
    here, there = posterior.predict(atoms), posterior.predict(systems.rotated(atoms, rotation))
    np.testing.assert_allclose(there.forces, here.forces @ rotation.T, atol=2e-5)
    np.testing.assert_allclose(there.energy, here.energy, atol=1e-5)
    if here.score is not None:
        np.testing.assert_allclose(there.score, here.score, rtol=2e-3, atol=1e-4)
    variances = here.forces_std_epistemic**2
    np.testing.assert_allclose(  # trace, since the spread of a vector turns with it
        (there.forces_std_epistemic**2).sum(axis=1), variances.sum(axis=1), rtol=1e-3
    )


@pytest.mark.parametrize("method", ["ensemble", "ivon", "laplace", "shallow"])
def test_resume_is_bit_for_bit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(method)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    save, count = recorder.save_checkpoint, 0

    def killed(*arguments):
        nonlocal count
        count += 1
        save(*arguments)
        if count == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recorder, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            run(method, out=tmp_path / "run")
    resumed = run(method, out=tmp_path / "run", resume=True)
    for one, other in zip(jax.tree.leaves(whole.samples), jax.tree.leaves(resumed.samples), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "ensemble",
    [{}, *(pytest.param(other, marks=pytest.mark.slow) for other in ({"batches": "shared"}, {"bootstrap": True}))],
    ids=str,
)
def test_members_together_equal_members_alone(ensemble: dict) -> None:
    """To rounding: batched products of matrices add up in another order than single ones."""
    config = config_of("ensemble", ensemble={"num_members": 3} | ensemble)
    prepared = prepare(water(8, 0), None, config)
    packed = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, prepared.packed)
    prepared = prepared._replace(packed=packed)
    task = get("ensemble")._task(prepared.config)

    def weights(members) -> list[np.ndarray]:
        chunk, plan, states = training.build_training(jax.random.key(0), prepared, task._replace(members=members))
        states, _ = chunk(states, chunk.place(prepared.packed), plan(0, 12), 12)
        return jax.tree.leaves(states.params)

    together = weights(range(3))
    assert together[0].dtype == np.float64
    for member in range(3):
        for all_, (alone,) in zip(together, weights((member,)), strict=True):
            np.testing.assert_allclose(all_[member], alone, rtol=1e-9, atol=1e-12)


def test_shared_batches_and_bootstrap_are_what_they_say() -> None:
    prepared = prepare(water(8, 0), None, config_of("ensemble"))
    task = get("ensemble")._task(prepared.config)._replace(members=(0, 1, 5))

    def plan(**options) -> np.ndarray:
        _, plan_fn, _ = training.build_training(jax.random.key(0), prepared, task._replace(**options))
        return plan_fn(0, 40)

    separate, shared, bootstrap = plan(), plan(shared_batches=True), plan(bootstrap=True)
    assert (separate[:, 0] != separate[:, 1]).any() and (shared == separate[:, :1]).all()
    assert all(len(set(separate[:, i].ravel())) == 8 for i in range(3))
    # Of eight draws with replacement two thirds are expected to come up.
    drawn = [len(set(bootstrap[:, i].ravel())) for i in range(3)]
    assert max(drawn) < 8 and len({tuple(sorted(set(bootstrap[:, i].ravel()))) for i in range(3)}) == 3


def test_ensemble_is_mean_and_spread_of_its_members() -> None:
    """Tan et al. (2023), eq. 2 to 5."""
    posterior = run("ensemble", ensemble={"num_members": 3, "loss": "absolute"})
    atoms = systems.rattled(systems.water())
    predictive = posterior.predict(atoms)
    alone = [
        dataclasses.replace(posterior, samples=jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], posterior.samples))
        for i in range(3)
    ]
    forces = np.stack([member.predict(atoms).forces for member in alone])
    np.testing.assert_allclose(predictive.forces, forces.mean(axis=0), atol=1e-6 * np.abs(forces).max())
    np.testing.assert_allclose(predictive.forces_std, forces.std(axis=0, ddof=1), rtol=1e-3)
    assert (predictive.forces_std_aleatoric == 0).all() and np.isnan(
        bnn_jax.evaluate(posterior, water(3, 20))["forces_mll_mixture"]
    )


def noisy_dimers(number: int, seed: int) -> Dataset:
    """Springs between H and F whose force labels have noise of 0.3 eV/Angstrom on H and 0.1 on F."""
    rng, structures = np.random.default_rng(seed), []
    for _ in range(number):
        atoms = ase.Atoms("HF", positions=[[0, 0, 0], systems.random_rotation(int(rng.integers(2**31)))[0]])
        atoms.positions[1] *= rng.uniform(0.8, 1.2)
        exact = systems.labelled(atoms, stiffness=3.0, rest_length=1.0)
        noise = rng.normal(size=(2, 3)) * np.array([[0.3], [0.1]])
        energy, forces = exact.get_potential_energy(), exact.get_forces() + noise
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        structures.append(atoms)
    return Dataset.from_atoms(structures)


@pytest.mark.parametrize(
    ("method", "rel"),
    [
        ("mean_variance", 0.15),
        *(pytest.param(slow, 0.15, marks=pytest.mark.slow) for slow in ("evidential", "ensemble")),
    ],
)
def test_known_noise_is_recovered(method: str, rel: float) -> None:
    """Of 600 dimers the noise of an atom is known to 1 / sqrt(2 * 1800) = 1.7 %; the rest is left to the fit.

    Evidence is judged by the variance of its Student t distribution, the sum of its two parts: the likelihood does not
    tell these apart (Meinert et al. 2023, arXiv:2205.10060). Its regulariser, which widens it, is left out.
    """
    trainer = {"num_steps": 1_500, "log_every": 100, "batch_size": 20, "learning_rate": 0.03}
    config = config_of(method, trainer, ensemble={"num_members": 2}, evidential={"regulariser": 0.0})
    # With hidden layers of 8 units one start in two leaves a std head without a living path to one of the elements.
    wide = dataclasses.replace(config.model, num_blocks=2, std_hidden=(32,), radial_hidden=(8,))
    config = dataclasses.replace(config, model=wide)
    train, valid = noisy_dimers(600, 0), noisy_dimers(100, 1)
    posterior = get(method).fit(jax.random.key(0), train, valid, config, progress=False)
    predictive = posterior.predict(noisy_dimers(50, 2))
    std = predictive.forces_std if method == "evidential" else predictive.forces_std_aleatoric[:, None]
    assert std.reshape(50, 2, -1).mean(axis=(0, 2)).tolist() == pytest.approx([0.3, 0.1], rel=rel)


def test_dropped_channels_do_not_matter() -> None:
    """A masked network is one in which the channel is cut out, the others scaled."""
    prepared = prepare(water(4, 0), None, config_of("dropout", model=MODEL | {"num_blocks": 2}))
    network = nequip(prepared.config.model)
    params = network.init(jax.random.key(0), example_graph(prepared.config.model))
    for one, other in zip(jax.tree.leaves(drop(jax.random.key(1), params, 0.0)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, other)
    groups = channel_readers(params)
    # Features between two blocks, those before the heads, and one hidden layer in each block and each std head.
    assert [len(group) for group in groups] == [2, 3, 1, 1, 1, 1]
    masked = drop(jax.random.key(1), params, 0.5)
    for group in groups:
        rows = []
        for path in group:
            before, after = params, masked
            for name in path:
                before, after = before[name], after[name]
            is_kept = np.any(np.asarray(after) != 0, axis=(*range(after.ndim - 2), after.ndim - 1))
            if np.any(np.asarray(before)):  # the last layers of the std heads start at zero
                np.testing.assert_array_equal(after, 2 * before * is_kept[:, None])
                rows.append(is_kept.tolist())
        assert all(row == rows[0] for row in rows)


def test_dropout_rate_is_met() -> None:
    prepared = prepare(water(4, 0), None, config_of("dropout"))
    params = nequip(prepared.config.model).init(jax.random.key(0), example_graph(prepared.config.model))
    keys = jax.random.split(jax.random.key(3), 4000)
    kernels = jax.vmap(lambda key: drop(key, params, 0.2)["heads"]["energy"]["kernel_0"])(keys)
    dropped = np.mean(np.asarray(kernels) == 0)
    assert dropped == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / (4000 * 4)))
    np.testing.assert_allclose(kernels.mean(axis=0), params["heads"]["energy"]["kernel_0"], rtol=0.1)


def test_ivon_draws_from_the_distribution_that_it_trained() -> None:
    """The mean over weights of z-scores and of variance ratios is known to the root of 2 over all the numbers drawn."""
    num_samples = 400
    config = config_of("ivon", ivon={"num_samples": num_samples})
    drawn = get("ivon").fit(jax.random.key(0), water(8, 0), water(4, 9), config, progress=False).samples
    task_fn = get("ivon")._task_of(8)
    normal = training.fit_networks(jax.random.key(0), water(8, 0), water(4, 9), config, task_fn, progress=False).samples
    leaves = zip(*(jax.tree.leaves(tree) for tree in (drawn, normal.mean, normal.variance)), strict=True)
    z = np.concatenate([((d - m) / np.sqrt(v)).reshape(num_samples, -1) for d, m, v in leaves], axis=1)
    z = z.astype(np.float64)
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs((z**2).mean() - 1) < 4 * np.sqrt(2 / z.size)
    assert np.abs(z.mean(axis=0)).max() < 6 / np.sqrt(num_samples)
    correlation = np.corrcoef(z, rowvar=False) - np.eye(z.shape[1])
    assert np.abs(correlation).max() < 6 / np.sqrt(num_samples)  # all independent


def test_ivon_learns_ammonia_and_is_one_network(tmp_path: Path) -> None:
    train, valid = bnn_jax.load("ammonia").split(train=20, valid=8, seed=0)
    config = config_of("ivon", {"num_steps": 200, "log_every": 50, "batch_size": 5}, ivon={"num_samples": 4})
    posterior = get("ivon").fit(jax.random.key(0), train, valid, config, out=tmp_path, progress=False)
    losses = [row["valid_loss"] for row in log_rows(tmp_path)]
    assert len(losses) == 4 and np.isfinite(losses).all() and losses[-1] < losses[0] - 1
    assert posterior.num_samples == 4 and np.isfinite(posterior.predict(valid).forces_std).all()
    verdict = judge(posterior, valid, labels_are_held_out=True)
    assert verdict.reproducible.holds is None and "cannot be told from one network" in verdict.sentence


def test_mixture_equals_scikit_learn() -> None:
    posterior = run("mixture")
    trained = dataclasses.replace(posterior, samples=posterior.samples["network"])
    features = atom_features(trained, water(8, 0))
    assert features.shape == (24, 4)
    regulariser = mixture.REGULARISER * features.var(axis=0).mean()
    expected = GaussianMixture(3, reg_covar=regulariser, random_state=0, max_iter=200).fit(features)
    test = water(5, 7)
    new = atom_features(trained, test)
    score = posterior.predict(test).score
    assert score is not None
    # float32: a feature's rounding error of 1e-7 is up to 1e-4 of the narrowest direction's std.
    np.testing.assert_allclose(score, -expected.score_samples(new), rtol=2e-3, atol=2e-2)


def test_number_of_components_is_found() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [8, 0], [0, 8]])
    features = np.concatenate([centre + rng.normal(size=(100, 2)) for centre in centres])
    assert mixture.fit_mixture(features, 0, 6, 0).n_components == 3
    assert mixture.fit_mixture(features, 5, 6, 0).n_components == 5


def test_laplace_is_bayesian_linear_regression() -> None:
    """Against the closed form, with derivatives by differences, which are exact for what is linear."""
    posterior = run("laplace")
    zeta = posterior.config.laplace.zeta
    network = jax.tree.map(lambda leaf: leaf[:1], posterior.samples["network"])
    plain = dataclasses.replace(posterior, config=dataclasses.replace(posterior.config, method="ensemble"))

    def outputs(weights: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        params = with_readout(jax.tree.map(lambda leaf: leaf[0], network), jnp.asarray(weights, jnp.float32))
        samples = jax.tree.map(lambda leaf: leaf[None], params)
        predictive = dataclasses.replace(plain, samples=samples).predict(dataset)
        return predictive.energy, predictive.forces.ravel()

    def rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        origin = outputs(np.zeros(4), dataset)
        columns = [outputs(unit, dataset) for unit in np.eye(4)]
        return tuple(np.stack([column[i] - origin[i] for column in columns], axis=1) for i in range(2))

    unit = EV_PER_KCAL_PER_MOL
    energy, forces = (part / unit for part in rows(water(8, 0)))
    hessian = 0.1 * energy.T @ energy + 1.0 * forces.T @ forces
    hessian += zeta**2 * np.trace(hessian) / 4 * np.eye(4)
    valid, test = water(4, 9), water(5, 3)
    trained = np.asarray(readout(jax.tree.map(lambda leaf: leaf[0], network)))
    predictive = posterior.predict(test)
    for i, (found, target) in enumerate(((predictive.energy_std, valid.energy), (predictive.forces_std, valid.forces))):

        def variance(dataset: Dataset, i: int = i) -> np.ndarray:
            g = rows(dataset)[i]
            return np.einsum("ij,ij->i", g, np.linalg.solve(hessian, g.T).T)

        errors = outputs(trained, valid)[i] - target.ravel()
        scale = np.mean(errors**2 / variance(valid))
        np.testing.assert_allclose(found.ravel() ** 2, scale * variance(test), rtol=5e-3)


def test_sampled_last_layers_have_the_covariance() -> None:
    exact = run("laplace")
    sampled = run("laplace", laplace=SECTIONS["laplace"] | {"num_samples": 4000})
    atoms = systems.rattled(systems.water())
    one, many = exact.predict(atoms), sampled.predict(atoms)
    # The std of 4000 normal draws is known to 1 / sqrt(8000) = 1.1 %.
    np.testing.assert_allclose(many.forces_std, one.forces_std, rtol=0.05)
    np.testing.assert_allclose(many.forces, one.forces, atol=5 * one.forces_std.max() / np.sqrt(4000))


@pytest.mark.parametrize(
    ("method", "sections", "message"),
    [
        ("laplace", {}, "needs 2 structures there, not 0"),
        ("mixture", {"mixture": {"num_components": 100}}, "training set has 24 atoms"),
        ("ensemble", {"trainer": {"batch_size": 50}}, r"trainer.batch_size is 50 and the training set has 8"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(method: str, sections: dict, message: str) -> None:
    config = config_of(method, **sections)
    with pytest.raises(InputError, match=message):
        get(method).fit(jax.random.key(0), water(8, 0), None, config, progress=False)


@pytest.mark.parametrize(
    "section",
    [
        {"ensemble": {"num_members": 1}},
        {"shallow": {"num_readouts": 1}},
        {"dropout": {"num_passes": 1}},
        {"ivon": {"num_samples": 1}},
    ],
    ids=str,
)
def test_one_member_is_no_ensemble(section: dict) -> None:
    with pytest.raises(InputError, match="must be at least 2"):
        Config.from_dict(section)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hess_init": 0.0}, r"ivon.hess_init is 0.0; it must be positive"),
        ({"beta1": 1.0}, r"ivon.beta1 is 1.0; it must be at least 0 and below 1"),
        ({"beta2": -0.1}, r"ivon.beta2 is -0.1"),
        ({"clip_radius": 0.0}, r"ivon.clip_radius is 0.0"),
        ({"num_samples": 2.5}, r"ivon.num_samples .* must be int"),
        ({"hessian_init": 1.0}, r"Unknown key ivon.hessian_init .* nearest known key is ivon.hess_init"),
    ],
    ids=str,
)
def test_numbers_of_ivon_have_ranges(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config.from_dict({"ivon": settings})


def test_unknown_methods_have_a_nearest_name() -> None:
    with pytest.raises(InputError, match="There is no method 'ensembel'; the nearest is ensemble"):
        bnn_jax.fit(water(4, 0), config=config_of("ensembel"))
    with pytest.raises(InputError, match="is a method of bnn_jax; choose another name"):
        register("laplace", laplace)


def test_a_network_that_never_was_finite_is_an_error() -> None:
    config = config_of("mean_variance", {"learning_rate": 1e30})
    with pytest.raises(recorder.DivergenceError, match=r"Network 0 was not finite .* lower trainer.learning_rate"):
        get("mean_variance").fit(jax.random.key(0), water(8, 0), water(4, 9), config, progress=False)


def test_progress_counts_no_events() -> None:
    assert Progress(*[None] * len(Progress._fields)).num_events == 0
