"""Save an MLflow model whose prediction is the job's: what ``mlflow models serve`` is given."""

import shutil
import sys
from typing import Any

import mlflow.pyfunc


class Scorer(mlflow.pyfunc.PythonModel):
    """Loads the job's trained model and answers a table of rows."""

    def load_context(self, context: Any) -> None:
        """Load the model when the server starts."""
        from bench import work

        self.subject = work.load()

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        """Answer the rows of a table."""
        return self.subject.answer(model_input.to_dict("records"))


if __name__ == "__main__":
    from bench.servers import mlflow_app  # by name, so that what is saved is a reference

    shutil.rmtree(sys.argv[1], ignore_errors=True)
    mlflow.pyfunc.save_model(sys.argv[1], python_model=mlflow_app.Scorer(), pip_requirements=[])
