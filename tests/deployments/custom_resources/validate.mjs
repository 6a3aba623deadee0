// Validates the custom resource on standard input (JSON) by the schema of its kind; says what is wrong, and exits with 1.
// To be run where the packages are: node --input-type=module --eval
import { readFileSync } from "node:fs";

const MODELS = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};

const resource = JSON.parse(readFileSync(0, "utf8"));
const models = await import(MODELS[resource.apiVersion]);
try {
  new models[resource.kind](resource).validate();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
