"""The model obeys the contract: one test for each property of the conformance kit."""

from xlm.testing import conformance_tests

test_contract = conformance_tests("arlm")
