"""What is allowed, asked, done and proven: policy, queue, storage, ledger, evidence, report.

No torch and no Airflow: this package can be read, tested and audited on its own.
"""
