"""Which method suits a network? A comparison, its leaderboard as a table, the best network of a target.

    python examples/compare_methods.py

Under a minute on two idle cores, with the embedded digits; asked again, it takes what the ledger knows.
"""

from search import api


def main() -> None:
    """The cells, one after another."""
    # %% Two methods at two targets; with no network named, the embedded one
    result = api.compare(
        methods=["l1", "kse"],
        strategies="acra-uniform",
        targets=[0.7, 0.5],
        seeds=2,
        epochs=0.5,
        final_epochs=1,
        batch_size=64,
        workers=0,  # so small a task is through before other processes are up
    )

    # %% What is known of the task, from this run and all others; ties inside the noise share a rank
    board = result.leaderboard
    print(board[["rank", "method", "target", "kept_flops", "accuracy", "std", "n"]].to_string(index=False))
    page = api.leaderboard().write(result.folder / "all.html")
    print(f"sortable in a browser: {page}")

    # %% The best at half the FLOPs, whichever method it came from
    best = result.best.loc["0.5"]
    network = result.network("0.5")
    count = sum(parameter.numel() for parameter in network.parameters())
    print(
        f"{best['method']}: {best['test_accuracy']:.2%} at {best['kept_flops']:.3f} of the FLOPs, {count:,} parameters"
    )


if __name__ == "__main__":
    main()
