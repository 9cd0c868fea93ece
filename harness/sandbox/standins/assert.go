// Package assert stands in for github.com/stretchr/testify/assert: what HumanEvalPack's tests use of it.
package assert

import (
	"bytes"
	"reflect"
	"testing"
)

// Assertions reports to a test.
type Assertions struct{ t *testing.T }

// New returns the assertions of a test.
func New(t *testing.T) *Assertions { return &Assertions{t} }

// Equal fails the test unless both are of one type and deeply equal; slices of bytes by their content.
func (a *Assertions) Equal(expected, actual interface{}, message ...interface{}) bool {
	left, ok := expected.([]byte)
	if !ok {
		if reflect.DeepEqual(expected, actual) {
			return true
		}
	} else if right, ok := actual.([]byte); ok && (left == nil) == (right == nil) && bytes.Equal(left, right) {
		return true
	}
	a.t.Errorf("not equal: expected %#v, got %#v %v", expected, actual, message)
	return false
}
