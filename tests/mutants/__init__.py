"""Changes single places of the appliance and runs the tests that reach them: a change that no test notices is listed.

Run by `scripts/mutants`; `python -m tests.mutants --help` names the options.
"""
