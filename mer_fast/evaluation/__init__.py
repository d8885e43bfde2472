"""Evaluations that can be trusted: folds by subject, pooled predictions, nothing of the test clips in the training."""

from .batched import predict_held_out, train_folds
from .clips import Dataset, FoldClips, Roster
from .cross_validation import cross_validate, leave_one_subject_out
from .engines import ENGINES, Engine
from .folds import FoldResult, Task, result_of, run_fold
from .metrics import SubjectRow, accuracy, confusion_matrix, uar, uf1
from .protocols import CompositeDatabase, CrossDatabase, EvaluationProtocol, Fold, KFold, LeaveOneSubjectOut, Split
from .report import Figures, Report
from .under_way import Evaluation, finish, prepared

__all__ = [
    "ENGINES",
    "CompositeDatabase",
    "CrossDatabase",
    "Dataset",
    "Engine",
    "Evaluation",
    "EvaluationProtocol",
    "Figures",
    "Fold",
    "FoldClips",
    "FoldResult",
    "KFold",
    "LeaveOneSubjectOut",
    "Report",
    "Roster",
    "Split",
    "SubjectRow",
    "Task",
    "accuracy",
    "confusion_matrix",
    "cross_validate",
    "finish",
    "leave_one_subject_out",
    "predict_held_out",
    "prepared",
    "result_of",
    "run_fold",
    "train_folds",
    "uar",
    "uf1",
]
