"""What Airflow's API server shows of the deletion queue: an API and a page, behind its logins.

The only package that knows both Airflow and the stages. Rules: every route names the access it
needs; stages do the work; nothing heavy is imported when Airflow loads the plugin.
"""
