// Prints the model tests that OpenFGA publishes as JSON, each model as the server has it.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/openfga/language/pkg/go/transformer"
	"github.com/openfga/openfga/assets"
	"sigs.k8s.io/yaml"
)

type test struct {
	File   string           `json:"file"`
	Name   string           `json:"name"`
	Stages []map[string]any `json:"stages"`
}

func main() {
	var all []test
	for _, file := range []string{"consolidated_1_1_tests.yaml", "abac_tests.yaml"} {
		text, err := assets.EmbedTests.ReadFile("tests/" + file)
		check(err)
		var read struct{ Tests []test }
		check(yaml.Unmarshal(text, &read))
		for _, test := range read.Tests {
			test.File = file
			for _, stage := range test.Stages {
				model, err := transformer.TransformDSLToJSON(stage["model"].(string))
				check(err)
				stage["model"] = json.RawMessage(model)
			}
			all = append(all, test)
		}
	}
	check(json.NewEncoder(os.Stdout).Encode(all))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
