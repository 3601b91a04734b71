// One full round with the typed SDK, from the first resource to the end of the last. Run where the SDK is installed,
// with AWS_ENDPOINT_URL, AWS_REGION and credentials; prints what it saw as JSON.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import {
  BatchClient,
  ClientException,
  CreateComputeEnvironmentCommand,
  CreateJobQueueCommand,
  DeleteComputeEnvironmentCommand,
  DeleteJobQueueCommand,
  DeregisterJobDefinitionCommand,
  DescribeComputeEnvironmentsCommand,
  DescribeJobDefinitionsCommand,
  DescribeJobQueuesCommand,
  DescribeJobsCommand,
  ListTagsForResourceCommand,
  RegisterJobDefinitionCommand,
  SubmitJobCommand,
  TagResourceCommand,
  TerminateJobCommand,
  UntagResourceCommand,
  UpdateComputeEnvironmentCommand,
  UpdateJobQueueCommand,
  paginateListJobs,
} from "@aws-sdk/client-batch";

const POLL_MS = 50;
const DEADLINE_MS = 60_000;
const client = new BatchClient({ maxAttempts: 1 });

async function call(Command, input = {}) {
  const { $metadata, ...answer } = await client.send(new Command(input));
  assert.equal($metadata.httpStatusCode, 200);
  assert.ok($metadata.requestId, "an answer without x-amzn-RequestId");
  return answer;
}

async function job(jobId) {
  const { jobs } = await call(DescribeJobsCommand, { jobs: [jobId] });
  assert.equal(jobs.length, 1);
  return jobs[0];
}

async function ended(jobId) {
  for (const deadline = Date.now() + DEADLINE_MS; ; await sleep(POLL_MS)) {
    const found = await job(jobId);
    if (["SUCCEEDED", "FAILED"].includes(found.status)) return found;
    assert.ok(Date.now() < deadline, `job ${jobId} has not ended: ${JSON.stringify(found)}`);
  }
}

const environment = await call(CreateComputeEnvironmentCommand, {
  computeEnvironmentName: "ce",
  type: "MANAGED",
  computeResources: {
    type: "EC2",
    minvCpus: 0,
    maxvCpus: 8,
    instanceTypes: ["optimal"],
    subnets: ["subnet"],
    securityGroupIds: ["group"],
    instanceRole: "role",
  },
});
const queue = await call(CreateJobQueueCommand, {
  jobQueueName: "q",
  priority: 0,
  computeEnvironmentOrder: [{ order: 0, computeEnvironment: environment.computeEnvironmentArn }],
  tags: { of: "q" },
});
const definition = await call(RegisterJobDefinitionCommand, {
  jobDefinitionName: "d",
  type: "container",
  parameters: { word: "hello" },
  containerProperties: {
    image: "busybox",
    command: ["echo", "Ref::word"],
    resourceRequirements: [
      { type: "VCPU", value: "1" },
      { type: "MEMORY", value: "16" },
    ],
  },
});
assert.equal(definition.revision, 1);

const { computeEnvironments } = await call(DescribeComputeEnvironmentsCommand, { computeEnvironments: ["ce"] });
assert.equal(computeEnvironments[0].status, "VALID");
assert.equal(computeEnvironments[0].computeResources.minvCpus, 0);
const { jobQueues } = await call(DescribeJobQueuesCommand, { jobQueues: [queue.jobQueueArn] });
assert.deepEqual([jobQueues[0].status, jobQueues[0].priority], ["VALID", 0]);
assert.equal(jobQueues[0].computeEnvironmentOrder[0].order, 0);
const { jobDefinitions } = await call(DescribeJobDefinitionsCommand, { jobDefinitionName: "d", status: "ACTIVE" });
assert.equal(jobDefinitions[0].jobDefinitionArn, definition.jobDefinitionArn);

const submission = { jobName: "j", jobQueue: "q", jobDefinition: "d" };
const { jobId, jobArn } = await call(SubmitJobCommand, { ...submission, tags: { of: "j" } });
const array = await call(SubmitJobCommand, {
  ...submission,
  arrayProperties: { size: 2 },
  dependsOn: [{ jobId }],
  containerOverrides: { command: ["true"] },
});
const held = await call(SubmitJobCommand, { ...submission, containerOverrides: { command: ["sleep", "600"] } });
await call(TerminateJobCommand, { jobId: held.jobId, reason: "enough" });

const single = await ended(jobId);
assert.equal(single.status, "SUCCEEDED");
assert.equal(single.container.exitCode, 0);
assert.deepEqual(single.container.command, ["echo", "hello"]);
for (const time of [single.createdAt, single.startedAt, single.stoppedAt]) assert.equal(typeof time, "number");
assert.ok(single.createdAt <= single.startedAt && single.startedAt <= single.stoppedAt);
assert.equal(single.attempts.length, 1);
const parent = await ended(array.jobId);
assert.deepEqual([parent.status, parent.arrayProperties.statusSummary.SUCCEEDED], ["SUCCEEDED", 2]);
assert.equal((await job(`${array.jobId}:0`)).arrayProperties.index, 0);
const terminated = await ended(held.jobId);
assert.deepEqual([terminated.status, terminated.statusReason], ["FAILED", "enough"]);

const listed = [];
for await (const page of paginateListJobs({ client, pageSize: 1 }, { jobQueue: "q", jobStatus: "SUCCEEDED" })) {
  listed.push(...page.jobSummaryList.map((summary) => summary.jobId));
}
assert.deepEqual(listed, [array.jobId, jobId]);

await call(TagResourceCommand, { resourceArn: jobArn, tags: { more: "" } });
await call(UntagResourceCommand, { resourceArn: jobArn, tagKeys: ["of"] });
assert.deepEqual((await call(ListTagsForResourceCommand, { resourceArn: jobArn })).tags, { more: "" });
assert.deepEqual((await call(ListTagsForResourceCommand, { resourceArn: queue.jobQueueArn })).tags, { of: "q" });

const refusal = await call(DeleteJobQueueCommand, { jobQueue: "q" }).catch((error) => error);
assert.ok(refusal instanceof ClientException, String(refusal));
assert.deepEqual([refusal.$fault, refusal.message], ["client", "Cannot delete, job queue must be DISABLED"]);

await call(UpdateJobQueueCommand, { jobQueue: "q", state: "DISABLED" });
await call(DeleteJobQueueCommand, { jobQueue: "q" });
await call(UpdateComputeEnvironmentCommand, { computeEnvironment: "ce", state: "DISABLED" });
await call(DeleteComputeEnvironmentCommand, { computeEnvironment: "ce" });
await call(DeregisterJobDefinitionCommand, { jobDefinition: definition.jobDefinitionArn });
assert.deepEqual(await call(DescribeJobQueuesCommand), { jobQueues: [] });

console.log(JSON.stringify({ jobId, logStreamName: single.container.logStreamName }));
