"""The population of ``benchmarks/trials.py hierarchy`` by NUTS, by the simulator's own density.

    pip install blackjax
    python benchmarks/population_by_nuts.py out/trials/hierarchy

In an environment of its own, since blackjax is no dependency. A reaction time is a rest and an
inverse Gaussian time. Priors are those of ``posterior.py population``; chains walk in standard
normal members.
"""

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np

blackjax, jax = import_module("blackjax"), import_module("jax")
jnp = jax.numpy
CHAINS, WARMUP, DRAWS = 4, 1000, 1000
KEYS = ("theta1", "theta2", "theta3")


def log_density(state: dict[str, Any], times: Any, center: Any, scale: Any) -> Any:
    """Of a state, up to a constant, with a member's center and scale under the prior."""
    spread = jnp.exp(state["log_spread"])
    member = state["mean"] + spread * state["member"]
    speed, caution = jnp.exp(member[:, :1]), jnp.exp(member[:, 1:2])
    rest = 0.1 + 0.4 * jax.scipy.stats.norm.cdf(member[:, 2:])
    since = times - rest
    inside = since > 1e-6
    since = jnp.where(inside, since, 1.0)
    mean, shape = caution / speed, caution**2
    of_time = 0.5 * jnp.log(shape / since**3) - shape * (since - mean) ** 2 / (2 * mean**2 * since)
    # Before the rest there is no time: a slope leads back.
    outside = -50.0 - 1000.0 * (rest - times)
    likelihood = jnp.where(inside, of_time, outside).sum()
    normal = -0.5 * (state["member"] ** 2).sum()
    units = ((state["mean"] - center) / scale) ** 2 + (spread / scale) ** 2
    # What is flat in the spread has the density exp(log spread) in its log.
    return likelihood + normal - 0.5 * units.sum() + state["log_spread"].sum()


@click.command(help=__doc__)
@click.argument("folder", type=Path)
def main(folder: Path) -> None:
    jax.config.update("jax_enable_x64", True)
    times = jnp.asarray(np.load(folder / "times.npz")["times"])
    [path] = (folder / "second").glob("*_population.json")
    content = json.loads(path.read_text())
    prior = [content["prior"][name] for name in KEYS]
    center, scale = (jnp.array([each[key] for each in prior]) for key in ("mean", "std"))
    began, key = time.perf_counter(), jax.random.key(0)

    def of(state: dict[str, Any]) -> Any:
        return log_density(state, times, center, scale)

    def chain(key: Any) -> Any:
        start = {
            "mean": jnp.array([0.5, 0.0, -1.0]),
            "log_spread": jnp.full(3, -1.0),
            "member": jnp.zeros((len(times), 3)),
        }
        warm, walk = jax.random.split(key)
        adaptation = blackjax.window_adaptation(blackjax.nuts, of, target_acceptance_rate=0.9)
        (state, settings), _ = adaptation.run(warm, start, num_steps=WARMUP)
        kernel = blackjax.nuts(of, **settings).step

        def step(state: Any, key: Any) -> Any:
            state, facts = kernel(key, state)
            return state, (state.position, facts.is_divergent)

        return jax.lax.scan(step, state, jax.random.split(walk, DRAWS))[1]

    states, divergent = jax.jit(jax.vmap(chain))(jax.random.split(key, CHAINS))
    mean, spread = np.array(states["mean"]), np.exp(np.array(states["log_spread"]))
    seconds = time.perf_counter() - began
    print(f"NUTS: {seconds:.0f} s, {int(divergent.sum())} divergent of {CHAINS * DRAWS}")
    print("| | NUTS | population | off, in standard deviations | width |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for what, values in (("mean", mean), ("spread", spread)):
        for place, name in enumerate(KEYS):
            own = content["population"][name][what]
            center, width = values[..., place].mean(), values[..., place].std()
            r_hat = blackjax.diagnostics.potential_scale_reduction(values[..., place])
            print(
                f"| {what} of {name} (R-hat {float(r_hat):.3f}) | {center:.3f} ± {width:.3f} | "
                f"{own['mean']:.3f} ± {own['std']:.3f} | {(own['mean'] - center) / width:+.2f} | "
                f"{own['std'] / width:.2f} |"
            )
    member = mean[:, :, None] + spread[:, :, None] * np.array(states["member"])
    rest = 0.1 + 0.4 * np.array(jax.scipy.stats.norm.cdf(member[..., 2:]))
    theta = np.concatenate([np.exp(member[..., :2]), rest], axis=-1)
    off, width = [], []
    for row, each in enumerate(content["posteriors"]):
        for place, name in enumerate(KEYS):
            values = theta[:, :, row, place]
            off.append((each[name]["mean"] - values.mean()) / values.std())
            width.append(each[name]["std"] / values.std())
    print(
        f"members: root mean square of means {np.sqrt(np.mean(np.square(off))):.3f} standard "
        f"deviations, of widths {100 * np.sqrt(np.mean(np.square(np.array(width) - 1))):.1f} %"
    )


if __name__ == "__main__":
    main()
