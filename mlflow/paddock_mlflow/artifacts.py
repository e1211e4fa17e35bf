"""Artifacts of an S3 store go through the server, whole.

A client of MLflow 3.17 that sees an S3 store behind the server fetches and uploads by presigned URLs, which name the
store as the server knows it. From the host of a Compose stack that name does not resolve: the client hangs, even for
three bytes, and there is no switch on the server (only MLFLOW_ENABLE_PROXY_MULTIPART_* in each client's environment).
An artifact repository without the multipart mixins makes the server announce none of this.
"""

from mlflow.entities import FileInfo
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository


class ProxiedS3ArtifactRepository(ArtifactRepository):
    """MLflow's S3 repository, with no other operations than those that pass through the server."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
        self._s3 = S3ArtifactRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._s3.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self._s3.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        return self._s3.list_artifacts(path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        self._s3.delete_artifacts(artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._s3._download_file(remote_file_path, local_path)

    def upload_archived_trace_data_bytes(self, data: bytes) -> None:
        self._s3.upload_archived_trace_data_bytes(data)


def register() -> None:
    """Serve `s3://` destinations in this process by `ProxiedS3ArtifactRepository`."""
    artifact_repository_registry._artifact_repository_registry.register("s3", ProxiedS3ArtifactRepository)
