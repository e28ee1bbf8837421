// Stands in for libraries that jsPDF can use and we do not.
export default undefined;
