"""What can be known of Ascend without one: the operators of exported graphs against what MindSpore registers for it."""
