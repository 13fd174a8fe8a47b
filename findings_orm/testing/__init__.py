"""Help for testing stores: the conformance suite, a state machine, and hypothesis strategies.

`findings_orm.testing.contract.FindingStoreContract` is the suite that every store passes,
`findings_orm.testing.machine` compares a store with a model of it under random operations, and
`findings_orm.testing.strategies` makes documents, good and bad. Needs pytest and hypothesis, so nothing
else of the package imports it.
"""
