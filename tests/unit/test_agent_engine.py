from batchyard.agent.runtimes.engine import Owner, container_config
from support.agent import an_offer


def test_a_container_carries_the_tags_that_go_on_to_it_and_ours_which_stand_above_them() -> None:
    offer = an_offer("true")
    offer.spec.container_tags.update({"team": "x", "batchyard.agent": "forged"})
    labels = container_config(offer, Owner("installation", "agent"), None)["Labels"]
    assert labels["team"] == "x"
    assert labels["batchyard.agent"] == "agent"
    assert labels["batchyard.job"] == offer.spec.job_id
