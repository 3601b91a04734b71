// Submits an array of jobs and watches it to its end, without polling: npx tsx watch.ts [HOST:PORT]
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const protos = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "protos");
const files = [
  "batchyard/api/registry/v1/registry_service.proto",
  "batchyard/api/jobs/v1/jobs_service.proto",
  "batchyard/api/operations/v1/job_operations_service.proto",
];
const definition = loader.loadSync(files, { includeDirs: [protos], enums: String, longs: Number, arrays: true });
const api: any = (grpc.loadPackageDefinition(definition) as any).batchyard.api;

const target = process.argv[2] ?? "127.0.0.1:8081";
const plain = grpc.credentials.createInsecure();
const registry = new api.registry.v1.RegistryService(target, plain);
const jobs = new api.jobs.v1.JobsService(target, plain);
const operations = new api.operations.v1.JobOperationsService(target, plain);

function call(client: any, method: string, request: object): Promise<any> {
  return new Promise((resolve, reject) => {
    client[method](request, (error: grpc.ServiceError | null, answer: any) => (error ? reject(error) : resolve(answer)));
  });
}

await call(registry, "RegisterJobDefinition", {
  jobDefinitionName: "from-typescript",
  type: "container",
  containerProperties: { image: "busybox", vcpus: 1, memory: 64, command: ["true"] },
});
const { jobId } = await call(jobs, "SubmitJob", {
  jobName: "array",
  jobQueue: "default",
  jobDefinition: "from-typescript",
  arrayProperties: { size: 3 },
});
console.log(`submitted ${jobId}`);

// The first response says what the job is now, the others what it becomes. After a lost connection ask again with
// `afterRevision`, the revision of the last response: nothing is missed and nothing comes twice.
const watch = operations.WatchJobs({ jobIds: [jobId] });
watch.on("data", (response: any) => {
  for (const change of response.changes) {
    const status = change.status.replace("JOB_STATUS_", "");
    const about = change.children.length ? "some children" : "the array";
    console.log(`revision ${response.revision}: ${about}: ${status}`);
    if (!change.children.length && (status === "SUCCEEDED" || status === "FAILED")) watch.cancel();
  }
});
watch.on("error", (error: grpc.ServiceError) => {
  if (error.code !== grpc.status.CANCELLED) throw error;
});
