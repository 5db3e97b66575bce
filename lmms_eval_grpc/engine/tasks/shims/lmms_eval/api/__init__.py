"""``lmms_eval.api``: the parts that task code imports."""
