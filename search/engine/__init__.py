"""From a configuration to outcomes. Open the files in this order to follow one candidate from the command line on:

1. `run_search.py` hands what was typed to `search.api`; `settings/new_config.py` makes a `RunConfig` of it.
2. `search/carry_out.py` calls the steps below and then has the files of the run written.
3. `prepare.py`: the task is loaded, `prepare_method.py` binds each method and checks its targets: a `PreparedRun`.
4. `running.py`: folder and ledger are opened, `run_record.py` writes `run.json`, candidates are dispatched.
5. `programs.py` starts the strategies (`search/strategies`), whose proposals hold candidates.
6. `candidate_queue.py` answers a candidate from the ledger or hands it to `search/dispatch`, where a worker's
   `judge/evaluate.py` makes an `Outcome` of it; the ledger keeps that, and the strategy learns it.
7. `finalists.py`: the best candidates of each target are fine-tuned longer and meet the test set.
8. `outcomes.py`: every proposal with its outcome, method by method. `search/report` makes tables and pages of it.
"""
